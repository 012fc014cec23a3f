//! The one place where errors of the muscles become Python's.

use pollen_plane::PlaneError;
use pyo3::{PyErr, create_exception, exceptions::PyException, prelude::*};

create_exception!(
    _native,
    NativeError,
    PyException,
    "An operating error of the muscles: `args` is (slug, reason), also as attributes."
);

/// A Python error with a slug and a reason.
pub(crate) fn native(slug: &str, reason: impl Into<String>) -> PyErr {
    let reason = reason.into();
    Python::attach(|py| {
        let error = NativeError::new_err((slug.to_owned(), reason.clone()));
        // Attributes of a plain exception: setting them fails for want of memory only.
        let _ = error.value(py).setattr("slug", slug);
        let _ = error.value(py).setattr("reason", reason);
        error
    })
}

pub(crate) fn of_plane(error: &PlaneError) -> PyErr {
    native(error.slug(), error.to_string())
}

pub(crate) fn of_net(error: &pollen_net::NetError) -> PyErr {
    native(error.slug(), error.to_string())
}
