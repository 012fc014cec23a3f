//! A peer of another time: an endpoint with a given key that speaks none of our protocols.
//!
//! `stranger KEY ADDRESS`: the key's 64 hex digits, an address to listen on. Tests put it where an
//! issuer was, to see what `pln join` says of it. It ends with its standard input.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::print_stdout)]

use std::io::Read;

use iroh::{Endpoint, RelayMode, SecretKey, endpoint::presets};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [key, address] = args.as_slice() else { panic!("usage: stranger KEY ADDRESS") };
    let byte = |at: usize| u8::from_str_radix(&key[2 * at..2 * at + 2], 16).expect("hex digits");
    let key = SecretKey::from_bytes(&std::array::from_fn(byte));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let endpoint = Endpoint::builder(presets::Minimal)
            .secret_key(key)
            .relay_mode(RelayMode::Disabled)
            .alpns(vec![b"pollen-link/999".to_vec(), b"pollen-join/999".to_vec()])
            .clear_ip_transports()
            .bind_addr(address.as_str())
            .expect("an address")
            .bind()
            .await
            .expect("an endpoint");
        println!("listening");
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                // The handshake ends by itself: there is no protocol in common.
                let _ = incoming.await;
            }
        });
        let wait = || std::io::stdin().read_to_end(&mut Vec::new());
        let _ = tokio::task::spawn_blocking(wait).await;
    });
}
