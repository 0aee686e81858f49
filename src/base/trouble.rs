//! What went wrong, in words.

/// `No such file or directory`, without the number behind it.
pub fn plain(e: &std::io::Error) -> String {
    let text = e.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
