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
    /// A port is taken.
    #[error("{0}")]
    PortInUse(String),
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
            Self::Unreachable(_) => "unreachable",
            Self::VersionMismatch(_) => "version-mismatch",
            Self::Overloaded(_) => "overloaded",
            Self::Refused(slug) => slug,
            Self::Missing => "blob-not-found",
            Self::PortInUse(_) => "port-in-use",
            Self::State(_) => "state-unusable",
            Self::Invalid(_) => "bad-request",
        }
    }

    pub(crate) fn lost(what: &str, cause: impl std::fmt::Display) -> Self {
        Self::Unreachable(format!("{what}: {cause}"))
    }
}
