//! The one error type of the crate. Slugs are those of the error table in the docs.

use std::borrow::Cow;
use std::fmt;

/// Why the sandbox refused or a guest failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxError {
    slug: &'static str,
    reason: String,
    remedy: Cow<'static, str>,
    executed: bool,
}

impl SandboxError {
    /// The stable name of the kind of error.
    #[must_use]
    pub fn slug(&self) -> &'static str {
        self.slug
    }

    /// What happened, for a person.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What to do next: said with the error, else what helps with its kind.
    #[must_use]
    pub fn remedy(&self) -> &str {
        if self.remedy.is_empty() { general_remedy(self.slug) } else { &self.remedy }
    }

    /// Whether code of the guest's function may have run.
    #[must_use]
    pub fn may_have_executed(&self) -> bool {
        self.executed
    }

    pub(crate) fn refused(
        slug: &'static str,
        reason: impl Into<String>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { slug, reason: reason.into(), remedy: remedy.into(), executed: false }
    }

    pub(crate) fn ran(
        slug: &'static str,
        reason: impl Into<String>,
        remedy: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { slug, reason: reason.into(), remedy: remedy.into(), executed: true }
    }

    /// The same error of a guest that has not run its function yet (it failed while being made).
    pub(crate) fn not_executed(mut self) -> Self {
        self.executed = false;
        self
    }

    pub(crate) fn invalid(reason: impl Into<String>, remedy: impl Into<Cow<'static, str>>) -> Self {
        Self::refused("module-invalid", reason, remedy)
    }

    pub(crate) fn overloaded(reason: impl Into<String>) -> Self {
        Self::refused("overloaded", reason, "try again later or on another node")
    }

    pub(crate) fn internal(reason: impl Into<String>, executed: bool) -> Self {
        Self {
            slug: "internal",
            reason: reason.into(),
            remedy: Cow::Borrowed("this is a bug in pollen; please report it with the node's log"),
            executed,
        }
    }

    pub(crate) fn out_of_memory(reason: impl Into<String>) -> Self {
        Self::ran("guest-out-of-memory", reason, "raise the limit: pln seed --memory SIZE")
    }

    pub(crate) fn output_too_large(bytes: usize, limit: usize) -> Self {
        Self::ran(
            "guest-output-too-large",
            format!("an output of {bytes} bytes is over the limit of {limit} bytes"),
            "return less at once, in several calls",
        )
    }

    /// Of output that is streamed.
    pub(crate) fn not_taken() -> Self {
        let reason = "nobody takes what the function writes any more";
        Self::ran("guest-failed", reason, "the caller went away: there is nothing to mend here")
    }

    pub(crate) fn deadline(executed: bool) -> Self {
        Self {
            slug: "deadline",
            reason: "the call's time ran out".into(),
            remedy: Cow::Borrowed(
                "give the call more time, or find out what the function waits for",
            ),
            executed,
        }
    }
}

fn general_remedy(slug: &str) -> &'static str {
    match slug {
        "module-invalid" => "build it again, with an Extism PDK or as a component of WASI 0.2",
        "import-unknown" => {
            "import only what is there: extism:host/env, extism:host/user, wasi_snapshot_preview1"
        }
        "guest-trapped" | "guest-failed" => {
            "see what it logged: pln logs --seed NAME on the node that ran it"
        }
        _ => "",
    }
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.reason, self.slug)
    }
}

impl std::error::Error for SandboxError {}
