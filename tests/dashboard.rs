//! The page at the admin address, in a real browser.

#[path = "kit/browser.rs"]
mod browser;
mod kit;

use browser::Browser;
use kit::raw::get;
use kit::{Gateway, Origin};

fn two_targets(one: &Origin, two: &Origin) -> String {
    format!(
        "admin: {{address: \"127.0.0.1:0\"}}\nupgrade: {{rollback_window: 0s}}\nupstreams:\n  app:\n    \
         targets: [\"{}\", \"{}\"]\n    health_check: {{path: /, interval: 100ms, unhealthy_after: 1}}\n\
         routes: [{{name: shop, path: /shop, upstream: app}}]\n",
        one.target(),
        two.target()
    )
}

fn text_of(id: &str, part: &str) -> String {
    format!("return document.getElementById('{id}').textContent.includes({part:?})")
}

#[test]
fn it_shows_what_happens_as_it_happens() {
    let (one, two) = (Origin::text("1"), Origin::text("2"));
    let gateway = Gateway::start_controlled(&two_targets(&one, &two));
    let browser = Browser::start();
    browser.open(&format!("http://{}/", gateway.admin()));
    let state = |state: &str| format!("return document.body.dataset.state === '{state}'");
    let health = |origin: &Origin, health: &str| {
        format!(
            "return document.querySelector('[data-target=\"{}\"]')?.dataset.health === '{health}'",
            origin.target()
        )
    };
    browser.until("it is live", &state("live"));
    browser.until("a healthy target", &health(&one, "healthy"));

    two.stop();
    browser.until("a target that went down", &health(&two, "unhealthy"));
    browser.until("and why", &text_of("targets", "connection refused"));
    two.restart();
    browser.until("the target came back", &health(&two, "healthy"));

    (0..20).for_each(|_| assert_eq!(get(gateway.address(), "/shop").status, 200));
    assert_eq!(get(gateway.address(), "/%3Cimg%20src=x%20onerror=alert(1)%3E").status, 404);
    browser.until("requests", "return parseFloat(document.getElementById('rps').textContent) > 0");
    browser.until("the route's row", "return !!document.querySelector('[data-route=\"shop\"]')");
    browser.until("the refusal and its reason", &text_of("refusals", "no_route"));
    assert_eq!(browser.ask("return document.querySelectorAll('#refusals img').length"), 0, "a path is text");
    gateway.configure_controlled("routes: [{path: /, upstrem: x}]\n");
    assert_eq!(gateway.operate("reload").0, 1);
    browser.until("the refused reload and its reason", &text_of("history", "did you mean \"upstream\"?"));

    gateway.configure_controlled(&two_targets(&one, &two));
    gateway.command_done("upgrade");
    browser.until("the upgrade, told by the new process", &text_of("history", "in place of"));
    browser.until("it goes on", &state("live"));
    assert_eq!(browser.complaints(), [""; 0], "the console is silent");

    let serving = gateway.serving_pid().to_string();
    let signal = |name: &str| std::process::Command::new("kill").args([name, &serving]).status().unwrap();
    signal("-STOP");
    browser.until("contact is lost", &state("lost"));
    browser.until("the last picture stays", &health(&one, "healthy"));
    signal("-CONT");
    browser.until("it is live again", &state("live"));
}

#[test]
fn it_is_used_by_keyboard_on_every_screen() {
    let (one, two) = (Origin::text("1"), Origin::text("2"));
    let gateway = Gateway::start(&two_targets(&one, &two));
    let browser = Browser::start();
    browser.open(&format!("http://{}/", gateway.admin()));
    browser.until("it is live", "return document.body.dataset.state === 'live'");
    get(gateway.address(), "/shop");
    browser.until("a row", "return !!document.querySelector('[data-route=\"shop\"]')");
    let resources = "return performance.getEntriesByType('resource').filter(r => !r.name.startsWith(location.origin)).length";
    assert_eq!(browser.ask(resources), 0, "nothing comes from elsewhere");
    for (width, theme) in [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")] {
        browser.dress(width, 1400, theme);
        browser.until("it fits", "return document.scrollingElement.scrollWidth <= window.innerWidth");
        if let Ok(folder) = std::env::var("PORTCULLIS_PICTURES") {
            browser.picture(&std::path::Path::new(&folder).join(format!("{width}-{theme}.png")));
        }
    }
    browser.dress(1280, 1400, "light");
    let sorted = "return [...document.querySelectorAll('th[aria-sort]')].map(th => th.textContent + th.ariaSort).join()";
    let before = browser.ask(sorted);
    browser.ask("document.querySelector('th button').focus()");
    browser.press("\u{e007}");
    browser.until("Enter sorts", &format!("{} !== {before}", sorted));
    let focused = "return document.activeElement.tagName";
    assert_eq!(browser.ask(focused), "BUTTON", "the focus stays");
    let nameless = "return [...document.querySelectorAll('button,input,[role=img],[tabindex=\"0\"]')]\
                    .filter(e => !(e.textContent.trim() || e.ariaLabel || e.getAttribute('aria-labelledby') || e.labels?.length || e.querySelector('title'))).length";
    assert_eq!(browser.ask(nameless), 0, "everything has a name");
    assert_eq!(browser.complaints(), [""; 0]);
}
