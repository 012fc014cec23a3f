//! Which content a request reads, and its answer.
//!
//! Decides: what a path or a Host names: a blob, a site by its path, the site of a host.
//! Does not know: how either is sent (`contents.rs`, `sites.rs`).
//! Invariants: a stranger's site never stands in the place of a path of the door itself.
//! Source: docs/internals/content.md#reading, docs/internals/content.md#sites.

use std::borrow::Cow;

use hyper::{Request, Response, StatusCode, body::Incoming};
use pollen_plane::{CallError, Principal};

use crate::{
    address::percent_decoded,
    answer::problem_as,
    contents::{self, BLOB, Sent},
    doors::Shared,
    sites::{self, Asked, SITE},
};

/// A content that a request is for.
pub(crate) enum Readable {
    Blob,
    /// A site by its name in the path: for the owner, and for strangers where the operator says so.
    SiteByPath,
    /// The one that the Host names.
    Site(String),
}

impl Readable {
    /// Which one a request is for, if it is for any.
    pub(crate) fn of(shared: &Shared, who: Principal, request: &Request<Incoming>) -> Option<Self> {
        let path = request.uri().path();
        if path.starts_with(BLOB) {
            return Some(Self::Blob);
        }
        let is_by_path = who != Principal::Anonymous || shared.hosts.is_by_path();
        if is_by_path && path.starts_with(SITE) {
            return Some(Self::SiteByPath);
        }
        if who != Principal::Anonymous {
            return None;
        }
        // `*` and a host alone are no page.
        let is_page = path.starts_with('/') && !path.starts_with("/call/") && path != "/healthz";
        if !is_page {
            return None;
        }
        let site = sites::of_host(&shared.plane, &shared.hosts, request.uri(), request.headers());
        site.map(Self::Site)
    }

    /// The site that the Host names.
    pub(crate) fn site(&self) -> Option<&str> {
        match self {
            Self::Site(name) => Some(name),
            _ => None,
        }
    }

    /// What its path looks like.
    pub(crate) fn form(&self) -> &'static str {
        match self {
            Self::Blob => "/blob/<name>",
            Self::SiteByPath => "/~site/<name>/",
            Self::Site(_) => "/<page>",
        }
    }

    /// Sends it.
    pub(crate) async fn read(
        self,
        shared: &Shared,
        who: Principal,
        request: &Request<Incoming>,
    ) -> Response<Sent> {
        let (method, headers, uri) = (request.method(), request.headers(), request.uri());
        let within = |path: &str| percent_decoded(path).map(Cow::into_owned);
        let (name, path) = match self {
            Self::Blob => {
                let name = uri.path().strip_prefix(BLOB).and_then(within);
                return match name.filter(|name| !name.is_empty()) {
                    Some(name) => contents::blob(&shared.plane, who, request, &name).await,
                    None => nothing(),
                };
            }
            Self::Site(name) => (Some(name), within(uri.path().get(1..).unwrap_or_default())),
            Self::SiteByPath => {
                let rest = uri.path().strip_prefix(SITE).unwrap_or_default();
                match rest.split_once('/') {
                    Some((name, path)) => (within(name), within(path)),
                    None if rest.is_empty() => return nothing(),
                    // A site's own links count from its folder.
                    None => return sites::moved(uri),
                }
            }
        };
        match (name.filter(|name| !name.is_empty()), path) {
            (Some(name), Some(path)) => {
                let asked = Asked { who, method, headers, uri, path: &path };
                sites::page(&shared.plane, &shared.sites, &name, &asked).await
            }
            _ => nothing(),
        }
    }
}

fn nothing() -> Response<Sent> {
    problem_as(StatusCode::NOT_FOUND, &unknown_path(), None, 0).map(Sent::Left)
}

/// What is said of a path that means nothing.
pub(crate) fn unknown_path() -> CallError {
    let remedy = "POST /call/<seed>/<function>, /http/<seed>/, GET /blob/<name>, GET /healthz";
    CallError::refused("bad-request", "there is nothing at this path", remedy)
}
