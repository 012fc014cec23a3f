//! The muscles' own log lines become events like any other; the brain writes the file.

use std::{
    fmt::Write as _,
    sync::{Mutex, OnceLock, PoisonError},
};

use pollen_plane::{Plane, events::Event};
use tracing::{
    Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{EnvFilter, Layer, layer::Context, prelude::*};

static TARGET: OnceLock<Mutex<Option<Plane>>> = OnceLock::new();

/// Sends log lines to this plane's queue; `None` sends them nowhere.
pub(crate) fn direct(plane: Option<Plane>) {
    let target = TARGET.get_or_init(|| {
        // PLN_LOG takes the usual directives. WASI opens a span at each host call at info; QUIC
        // warns of a path that it closes with its connection.
        let filter = EnvFilter::try_from_env("PLN_LOG")
            .unwrap_or_else(|_| EnvFilter::new("warn,pollen=info,noq_proto=error"))
            .add_directive_or_self("wasmtime_wasi=warn");
        let layer = ToBrain.with_filter(filter);
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
        Mutex::default()
    });
    *target.lock().unwrap_or_else(PoisonError::into_inner) = plane;
}

trait AddOrSelf {
    fn add_directive_or_self(self, directive: &str) -> Self;
}

impl AddOrSelf for EnvFilter {
    fn add_directive_or_self(self, directive: &str) -> Self {
        match directive.parse() {
            Ok(directive) => self.add_directive(directive),
            Err(_) => self,
        }
    }
}

struct ToBrain;

impl<S: Subscriber> Layer<S> for ToBrain {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let Some(target) = TARGET.get() else { return };
        // A line logged while this one is queued would wait for itself.
        let Ok(target) = target.try_lock() else { return };
        let Some(plane) = target.as_ref() else { return };
        let mut text = Text::default();
        event.record(&mut text);
        plane.events().log(Event::Log {
            level: level_name(*event.metadata().level()).to_owned(),
            source: event.metadata().target().to_owned(),
            seed: String::new(),
            call: String::new(),
            trace_id: String::new(),
            span_id: String::new(),
            text: text.0,
        });
    }
}

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        let _ = match field.name() {
            "message" => write!(self.0, "{space}{value:?}"),
            name => write!(self.0, "{space}{name}={value:?}"),
        };
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        _ => "debug",
    }
}
