//! Modules that other people's compilers made: the fixtures of Extism's go-sdk, fetched through the
//! Go module proxy, and this project's Go examples when they are built. Without Go nothing is here
//! to be run, and the tests say so.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use common::{Recorder, World, call, checkout};
use pollen_wasm::{Sandbox, SeedSettings};

const SDK: &str = "github.com/extism/go-sdk@v1.7.1";

/// The folder of the fixtures; none when Go or the proxy is not there.
fn fixtures() -> Option<PathBuf> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("go.mod"), "module corpus\n\ngo 1.22\n").unwrap();
    let mut go = Command::new("go");
    go.current_dir(folder.path()).args(["mod", "download", "-json", SDK]);
    let output = go.output().ok()?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let found = answer["Dir"].as_str().map(|dir| Path::new(dir).join("wasm"));
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "no fixtures in CI: {answer}");
    found
}

fn fixture(folder: &Path, name: &str) -> Bytes {
    Bytes::from(std::fs::read(folder.join(format!("{name}.wasm"))).unwrap())
}

#[test]
fn modules_of_many_languages_give_the_answers_that_they_give_elsewhere() {
    let Some(folder) = fixtures() else {
        println!("skipped: go or its proxy is not here");
        return;
    };
    let world = World::new();
    let load = |name: &str, change: &dyn Fn(&mut SeedSettings)| {
        let mut settings = SeedSettings::new(name);
        settings.guest.memory_bytes = 256 << 20;
        change(&mut settings);
        world.load(fixture(&folder, name), settings)
    };
    let output = world.text(&load("count_vowels", &|_| {}), "count_vowels", "hello world");
    assert_eq!(3, serde_json::from_str::<serde_json::Value>(&output).unwrap()["count"]);
    assert_eq!("Hello, world!", world.text(&load("hello", &|_| {}), "run_test", ""));
    let configured = load("config", &|settings| {
        settings.guest.config.insert("thing".into(), "hello".into());
    });
    assert!(world.text(&configured, "run_test", "").contains("hello"));
    assert_eq!("guest-failed", world.slug(&load("fail", &|_| {}), "run_test", ""));
    let output = world.text(
        &load("hello_haskell", &|settings| {
            settings.guest.config.insert("greeting".into(), "Howdy".into());
        }),
        "testing",
        "John",
    );
    assert_eq!("Howdy, John", output);
    assert!(world.call(&load("noop", &|_| {}), "run_test", "").result.is_ok());
    let offset = load("input_offset", &|_| {});
    assert_eq!("\u{b}", &world.text(&offset, "input_offset_length", "hello world")[..1]);
}

#[test]
fn logs_and_exits_of_foreign_modules_are_seen() {
    let Some(folder) = fixtures() else { return };
    let world = World::new();
    let log = world.load(fixture(&folder, "log"), SeedSettings::new("log"));
    let host = Recorder::new();
    world.call_with(&log, call("run_test", ""), host.clone()).result.unwrap();
    assert_eq!(
        [
            "this is a debug log",
            "this is an info log",
            "this is a warning log",
            "this is an error log"
        ]
        .as_slice(),
        host.text()
    );
    let exit = world.load(fixture(&folder, "exit"), SeedSettings::new("exit"));
    let outcome = world.call(&exit, "_start", "");
    assert_eq!("guest-failed", outcome.result.unwrap_err().slug());
}

#[test]
fn every_fixture_loads_or_says_why_not() {
    let Some(folder) = fixtures() else { return };
    let mut loaded = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        match Sandbox::inspect(&std::fs::read(&path).unwrap()) {
            Ok(_) => loaded += 1,
            Err(error) => {
                println!("{}: {error}; {}", path.display(), error.remedy());
                assert!(["import-unknown", "module-invalid"].contains(&error.slug()));
            }
        }
    }
    assert!(loaded >= 15, "{loaded}");
}

#[test]
fn the_go_examples_run_when_they_are_built() {
    let folder = checkout().join("examples/build");
    let Ok(wasm) = std::fs::read(folder.join("shout-go.wasm")) else {
        println!("skipped: examples/build.sh has not been run with Go");
        return;
    };
    let world = World::new();
    let seed = world.load(wasm, SeedSettings::new("shout-go"));
    assert_eq!("HELLO", world.text(&seed, "shout", "hello"));
    assert_eq!("HELLO", world.text(&seed, "upper", "hello"));
    assert_eq!(1, world.sandbox.metrics().instances);
}
