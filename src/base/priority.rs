//! Who goes first where not all can be served.

/// The class of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Turned away while there is still room for the others.
    Low,
    /// What says nothing else.
    #[default]
    Normal,
    /// Turned away last.
    High,
}

impl Priority {
    /// Reads a class.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "low" => Ok(Priority::Low),
            "normal" => Ok(Priority::Normal),
            "high" => Ok(Priority::High),
            other => Err(format!("expected low, normal or high, found {other:?}")),
        }
    }

    /// Of room for so many, how many may be there before one of this class is turned away: three quarters, all.
    pub fn share(self, room: usize) -> usize {
        match self {
            Priority::Low => room - room / 4,
            Priority::Normal | Priority::High => room,
        }
    }
}
