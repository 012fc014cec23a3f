//! Sites over HTTP: which one a request is for, and what it is answered.
//!
//! Decides: which site a Host names, the headers of a file, and for how long a table stays read.
//! Does not know: what a path means (`site.rs`); which packed form is best (`coding.rs`); who may read a
//! site, nor where it comes from (`pollen-plane`).
//! Invariants: a request sees one version of a site from its table to its last byte.
//! Source: RFC 9110, 9111; docs/internals/content.md#sites.

use std::{
    collections::HashMap,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    Method, Response, StatusCode, Uri,
    header::{
        ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, HOST, HeaderMap, HeaderName, HeaderValue,
        LOCATION, RANGE, VARY, X_CONTENT_TYPE_OPTIONS,
    },
};
use parking_lot::Mutex;
use pollen_plane::{Blob, CallError, FoundBlob, Plane, Principal, SeedRef};
use pollen_wire::{
    Id,
    site::{BLOCK, Coding, File, Table, table_size},
};

use crate::{
    address::{Hosts, host_of},
    answer::{no_such_seed, plain, problem},
    coding::choose,
    contents::{Part, Sent, Source, send},
    site::{Found, Keep, find},
    warm::Warm,
};

/// Where the owner of a node reads its sites.
pub(crate) const SITE: &str = "/~site/";
/// Tables that stay read. A node that does not hold a site keeps what it fetched as long.
const TABLES: usize = 64;
const STAYS: Duration = Duration::from_secs(600);

/// The sites that were asked for, by their publishers and the hashes of their archives.
#[derive(Default)]
pub(crate) struct Sites {
    held: Mutex<HashMap<(Id, Id), Held>>,
    warm: Warm,
}

struct Held {
    site: Arc<Table>,
    /// What was fetched for readers stays on this node while somebody has it.
    blob: Blob,
    used: Instant,
}

/// The part of a request that says what is read.
pub(crate) struct Asked<'a> {
    pub(crate) who: Principal,
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) uri: &'a Uri,
    /// The path within the site, decoded.
    pub(crate) path: &'a str,
}

/// A file that answers a request, and in which form.
struct Picked<'a> {
    file: &'a File,
    status: StatusCode,
    keep: Keep,
    coding: Option<Coding>,
    span: Range<u64>,
}

/// The public site that the host of a request names.
pub(crate) fn of_host(
    plane: &Plane,
    hosts: &Hosts,
    uri: &Uri,
    headers: &HeaderMap,
) -> Option<String> {
    // A target that is a whole address goes before the Host (RFC 9112, 3.2.2).
    let host = host_of(match uri.authority() {
        Some(authority) => authority.as_str(),
        // HTTP/1.0 need not send one.
        None => headers.get(HOST).map_or(Some(""), |host| host.to_str().ok())?,
    });
    let tables = plane.tables().load();
    let is_site = |name: &&str| {
        tables.named(name).is_some_and(|held| held.row.is_site() && held.row.lets_stranger())
    };
    hosts.names(&host).find(is_site).map(str::to_owned)
}

/// Answers with a file of a site.
pub(crate) async fn page(
    plane: &Plane,
    sites: &Sites,
    name: &str,
    asked: &Asked<'_>,
) -> Response<Sent> {
    let found = match plane.find_blob(&SeedRef::parse(name), asked.who) {
        Ok(found) if found.is_site() => found,
        Ok(_) if asked.who != Principal::Anonymous => {
            let reason = format!("\"{name}\" is not a site");
            let error = CallError::refused("bad-request", reason, &format!("pln fetch {name}"));
            return problem(&error, None, 0).map(Sent::Left);
        }
        Err(error) if asked.who != Principal::Anonymous => {
            return problem(&error, None, 0).map(Sent::Left);
        }
        Ok(_) | Err(_) => return problem(&no_such_seed(), None, 0).map(Sent::Left),
    };
    if let Some(response) = sites.recall(&found, asked) {
        return response;
    }
    match sites.read_page(plane, found, asked).await {
        Ok(response) => response,
        // A stranger learns nothing of what is not here.
        Err(error) => problem(&error, None, 0).map(Sent::Left),
    }
}

impl Sites {
    /// The answer, if all that it takes is in memory.
    fn recall(&self, found: &FoundBlob, asked: &Asked<'_>) -> Option<Response<Sent>> {
        let of = (found.publisher(), found.content());
        let site = {
            let mut all = self.held.lock();
            let held = all.get_mut(&of)?;
            held.used = Instant::now();
            held.site.clone()
        };
        // What is not there may be in a former version.
        let picked = pick(&site, asked).filter(|picked| picked.status == StatusCode::OK)?;
        let bytes = self.warm.get(&(of.0, of.1, picked.span.start, picked.span.end))?;
        Some(answer(&site, &picked, Source::Memory(bytes), asked))
    }

    async fn read_page(
        &self,
        plane: &Plane,
        found: FoundBlob,
        asked: &Asked<'_>,
    ) -> Result<Response<Sent>, CallError> {
        let blob = plane.open_found(found, 0).await?;
        let site = self.read(&blob).await?;
        let before = match find(&site, asked.path) {
            Found::Folder => return Ok(moved(asked.uri)),
            Found::Nothing(_) => self.before(&blob, asked).await,
            Found::File(..) => None,
        };
        let (site, blob) = before.unwrap_or((site, blob));
        let Some(picked) = pick(&site, asked) else {
            let text = Bytes::from_static(b"There is no such page.\n");
            return Ok(plain(StatusCode::NOT_FOUND, "text/plain", text).map(Sent::Left));
        };
        let source = self.source(blob, &picked.span, asked).await?;
        Ok(answer(&site, &picked, source, asked))
    }

    /// A small file in memory, where it stays; of a large one its blob.
    async fn source(
        &self,
        blob: Blob,
        span: &Range<u64>,
        asked: &Asked<'_>,
    ) -> Result<Source, CallError> {
        if *asked.method != Method::GET || !Warm::takes(span.end - span.start) {
            return Ok(Source::Blob(blob));
        }
        let place = (blob.publisher(), blob.content(), span.start, span.end);
        if let Some(bytes) = self.warm.get(&place) {
            return Ok(Source::Memory(bytes));
        }
        let bytes = blob.read_whole(span.clone()).await?;
        self.warm.put(place, &bytes);
        Ok(Source::Memory(bytes))
    }

    /// The table of a site, read once while it is in use.
    async fn read(&self, blob: &Blob) -> Result<Arc<Table>, CallError> {
        let of = (blob.publisher(), blob.content());
        if let Some(held) = self.held.lock().get_mut(&of) {
            held.used = Instant::now();
            if blob.is_fetched() {
                // It was on this node when its table was read, and is not held any more.
                held.blob = blob.clone();
            }
            return Ok(held.site.clone());
        }
        let block = within(blob, 0..BLOCK).await?;
        let size = table_size(&block).ok_or_else(|| no_site("it has no table"))?;
        let table = within(blob, BLOCK..BLOCK + size).await?;
        let site = Table::read(&table, blob.size()).map_err(|reason| no_site(&reason))?;
        let held = Held { site: Arc::new(site), blob: blob.clone(), used: Instant::now() };
        let site = held.site.clone();
        let mut all = self.held.lock();
        all.retain(|_, held| held.used.elapsed() < STAYS);
        if all.len() >= TABLES {
            let oldest = all.iter().min_by_key(|(_, held)| held.used).map(|(of, _)| *of);
            oldest.and_then(|of| all.remove(&of));
        }
        all.insert(of, held);
        Ok(site)
    }

    /// The former version of a site that has what a page of it asks for, and the new one has not any
    /// more: a script or an image whose name changed with its content. A page is not such a thing.
    async fn before(&self, blob: &Blob, asked: &Asked<'_>) -> Option<(Arc<Table>, Blob)> {
        for former in blob.former(asked.who).await {
            let Ok(site) = self.read(&former).await else { continue };
            if matches!(find(&site, asked.path), Found::File(_, keep) if keep != Keep::Asks) {
                return Some((site, former));
            }
        }
        None
    }
}

/// A range of an archive, which its publisher says how long it is.
async fn within(blob: &Blob, range: Range<u64>) -> Result<Bytes, CallError> {
    if range.end > blob.size() {
        return Err(no_site("it is too short"));
    }
    blob.clone().read_whole(range).await
}

fn no_site(reason: &str) -> CallError {
    let reason = format!("the site cannot be read: {reason}");
    CallError::refused("bundle-invalid", reason, "its publisher seeds it again: pln seed FOLDER")
}

/// What a request is answered with: a file, or the page that says that there is none.
fn pick<'a>(site: &'a Table, asked: &Asked<'_>) -> Option<Picked<'a>> {
    let (file, status, keep) = match find(site, asked.path) {
        Found::File(file, keep) => (file, StatusCode::OK, keep),
        Found::Nothing(Some(file)) => (file, StatusCode::NOT_FOUND, Keep::Asks),
        Found::Nothing(None) | Found::Folder => return None,
    };
    // A range is one of the file as it is, and of GET.
    let has_range = *asked.method == Method::GET && asked.headers.contains_key(RANGE);
    let lists = asked.headers.get_all(ACCEPT_ENCODING).into_iter();
    let lists = lists.filter_map(|held| held.to_str().ok());
    let coding = choose(lists, |coding| !has_range && file.has(coding));
    let packed = coding.and_then(|coding| site.packed_span(file, coding));
    let span = packed.unwrap_or_else(|| site.span(file));
    Some(Picked { file, status, keep, coding, span })
}

fn answer(site: &Table, picked: &Picked<'_>, source: Source, asked: &Asked<'_>) -> Response<Sent> {
    let mut response = send_file(picked, source, asked);
    // These answer one request alone: no cache may keep them for the path.
    let is_own = matches!(
        response.status(),
        StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE
    );
    let keep = match picked.keep {
        Keep::Asks => "public, no-cache",
        Keep::Always => "public, max-age=31536000, immutable",
        Keep::AMinute => "public, max-age=60",
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(keep));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    for (name, value) in &site.headers {
        // The table's decoder lets no other through.
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
    if is_own {
        headers.remove(CACHE_CONTROL);
    }
    response
}

fn send_file(picked: &Picked<'_>, source: Source, asked: &Asked<'_>) -> Response<Sent> {
    let Picked { file, status, coding, span, .. } = picked;
    let tag = match coding {
        Some(coding) => format!("\"{}-{}\"", file.tag, coding.name()),
        None => format!("\"{}\"", file.tag),
    };
    let part = Part { span: span.clone(), tag: &tag, media: &file.media };
    let unconditional = HeaderMap::new();
    let mut response = if *status == StatusCode::NOT_FOUND {
        // What is not there has no ranges, and is never "not modified" (RFC 9110, 13.2.1, 14.2).
        let mut response = send(asked.method, &unconditional, source, part);
        *response.status_mut() = *status;
        response
    } else {
        send(asked.method, asked.headers, source, part)
    };
    if let Some(coding) = coding
        && matches!(response.status(), StatusCode::OK | StatusCode::NOT_FOUND)
    {
        let name = HeaderValue::from_static(coding.name());
        response.headers_mut().insert(CONTENT_ENCODING, name);
    }
    if Coding::ALL.into_iter().any(|coding| file.has(coding)) {
        response.headers_mut().insert(VARY, HeaderValue::from_name(ACCEPT_ENCODING));
    }
    response
}

/// To the address of a folder, which ends with a slash; the query stays.
pub(crate) fn moved(uri: &Uri) -> Response<Sent> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let place = format!("{}/{query}", uri.path());
    let mut response = plain(StatusCode::PERMANENT_REDIRECT, "text/plain", Bytes::new());
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(LOCATION, place);
    }
    response.map(Sent::Left)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_folder_is_moved_to_with_its_query() {
        let uri: Uri = "/docs?page=2".parse().unwrap();
        let response = moved(&uri);
        assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
        assert_eq!(response.headers()[LOCATION], "/docs/?page=2");
    }
}
