//! The few styles of the live view. Colour never is the only sign of anything: with `NO_COLOR` there is none. Dim and
//! bold are the terminal's own, so that they suit light and dark backgrounds; it refuses fixed greys for that reason.

use ratatui::style::{Color, Modifier, Style};

/// How things look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    /// Whether there is colour.
    pub(super) colour: bool,
}

impl Theme {
    /// What the user wants: <https://no-color.org>.
    pub(super) fn from_env() -> Self {
        Theme { colour: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) }
    }

    fn coloured(self, colour: Color) -> Style {
        if self.colour {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }

    /// As it should be.
    pub(super) fn good(self) -> Style {
        self.coloured(Color::Green)
    }

    /// Worth a look.
    pub(super) fn odd(self) -> Style {
        self.coloured(Color::Yellow)
    }

    /// As it should not be.
    pub(super) fn bad(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// The bars of the chart, and the pane that has the keys.
    pub(super) fn accent(self) -> Style {
        self.coloured(Color::Cyan)
    }

    /// What should not draw the eye.
    pub(super) fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// What is looked for first.
    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// A line that must not be overlooked.
    pub(super) fn alarm(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD | Modifier::REVERSED)
    }
}
