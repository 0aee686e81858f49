//! A real browser: Debian's Chromium, headless, driven over WebDriver.

#![allow(dead_code)] // each test file uses its part

use crate::kit::wait_for;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use thirtyfour::prelude::*;

/// A browser with one page; ended when dropped.
pub struct Browser {
    driver: WebDriver,
    runtime: tokio::runtime::Runtime,
    process: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts it.
    pub fn start() -> Browser {
        // Port 0: the driver takes a free one and says which.
        let mut process = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed (Debian: chromium-driver; tests/run does it)");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let port = line.split_once("successfully on port ")?.1.trim_end_matches('.').parse::<u16>();
            port.ok()
        });
        let port = port.expect("the driver says its port");
        std::thread::spawn(move || lines.for_each(drop)); // it must not wait for a reader
        let profile = tempfile::tempdir().unwrap();
        let mut wanted = DesiredCapabilities::chrome();
        for argument in [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--ignore-certificate-errors", // those of the tests are of no authority that it knows
            &format!("--user-data-dir={}", profile.path().display()),
        ] {
            wanted.add_arg(argument).unwrap();
        }
        wanted.set_browser_log_level(thirtyfour::LoggingPrefsLogLevel::Warning).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let driver = runtime.block_on(WebDriver::new(format!("http://127.0.0.1:{port}"), wanted)).unwrap();
        Browser { driver, runtime, process, _profile: profile }
    }

    fn run<T>(&self, what: impl Future<Output = WebDriverResult<T>>) -> T {
        self.runtime.block_on(what).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Opens a page.
    pub fn open(&self, url: &str) {
        self.run(self.driver.goto(url));
    }

    /// What a script of the test's returns in the page.
    pub fn ask(&self, script: &str) -> serde_json::Value {
        self.run(async { Ok(self.driver.execute(script, Vec::new()).await?.json().clone()) })
    }

    /// Waits until a script returns true.
    pub fn until(&self, what: &str, script: &str) {
        wait_for(what, || (self.ask(script) == true).then_some(()));
    }

    /// Presses keys where the focus is.
    pub fn press(&self, keys: &str) {
        self.run(async { self.driver.active_element().await?.send_keys(keys).await });
    }

    /// What the console said and is worse than information.
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.run(self.driver.get_log("browser"));
        entries.into_iter().map(|entry| format!("{entry:?}")).collect()
    }

    /// The window's size, and the theme that the page is to have.
    pub fn dress(&self, width: u32, height: u32, theme: &str) {
        self.run(async {
            let tools = self.driver.cdp();
            let size = serde_json::json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
            tools.send_raw("Emulation.setDeviceMetricsOverride", size).await?;
            let media = serde_json::json!({"features": [{"name": "prefers-color-scheme", "value": theme}]});
            tools.send_raw("Emulation.setEmulatedMedia", media).await
        });
    }

    /// A picture of the whole window.
    pub fn picture(&self, path: &std::path::Path) {
        self.run(self.driver.screenshot(path));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.runtime.block_on(self.driver.clone().quit());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
