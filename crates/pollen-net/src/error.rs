//! One error for the crate.

/// What went wrong, with the slug of the error table.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NetError {
    /// Nobody answers there, or the link broke.
    #[error("{0}")]
    Unreachable(String),
    /// The peer speaks another protocol version.
    #[error("{0}")]
    VersionMismatch(String),
    /// A queue or a stream limit is full.
    #[error("{0}")]
    Overloaded(String),
    /// The peer refused, with its slug.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// This node does not hold the content.
    #[error("this node does not hold that content")]
    Missing,
    /// What a peer sent is not what its hash says.
    #[error("{0}")]
    Corrupt(String),
    /// A port is taken.
    #[error("{0}")]
    PortInUse(String),
    /// The disk of the content store is full.
    #[error("{0}")]
    Full(String),
    /// A content was not read to its end; whether its copy is damaged is looked at then.
    #[error("{0}")]
    Unread(String),
    /// The content store cannot be used.
    #[error("{0}")]
    State(String),
    /// An argument that no version of this protocol could take.
    #[error("{0}")]
    Invalid(String),
}

impl NetError {
    /// The stable name in the error table.
    pub fn slug(&self) -> &str {
        match self {
            // A holder that lies is as good as none.
            Self::Unreachable(_) | Self::Corrupt(_) => "unreachable",
            Self::VersionMismatch(_) => "version-mismatch",
            Self::Overloaded(_) => "overloaded",
            Self::Refused(slug) => slug,
            Self::Missing => "blob-not-found",
            Self::PortInUse(_) => "port-in-use",
            Self::Full(_) => "storage-full",
            Self::State(_) | Self::Unread(_) => "state-unusable",
            Self::Invalid(_) => "bad-request",
        }
    }

    /// Whether it is this node's own store that failed: another peer would be no better.
    pub fn is_own(&self) -> bool {
        matches!(self, Self::Full(_) | Self::State(_) | Self::Unread(_))
    }

    /// The same, where nobody was to be reached but this node's own disk.
    pub(crate) fn unread(self) -> Self {
        match self {
            Self::Unreachable(text) => Self::Unread(text),
            error => error,
        }
    }

    pub(crate) fn lost(what: &str, cause: impl std::fmt::Display) -> Self {
        Self::Unreachable(format!("{what}: {cause}"))
    }
}
