//! Services where listeners are.

use std::{
    io::Write,
    net::{Shutdown, TcpListener},
    sync::atomic::Ordering::Relaxed,
};

use crate::common::{NODES, accept, connect, is_reset, read_all, service};

#[test]
fn a_service_where_a_listener_is_ends_its_clients_instead_of_going_round() {
    let (a, b) = &*NODES;
    let served = service("round", "127.0.0.1:1");
    a.knows(&served, &[b]);
    let bound = a.listen("round", |_| ()).unwrap();
    b.serve(&service("round", &bound));
    let opened =
        || b.plane.tables().load().served.named("round").unwrap().local.opened.load(Relaxed);
    for client in 1..=5 {
        is_reset(&mut connect(&bound));
        // One way round, or two where the mark came ahead of the socket that it is of.
        assert!(opened() <= 2 * client, "{} tunnels for {client} clients", opened());
    }
}

#[test]
fn nor_does_a_client_go_round_within_one_node_by_another_spelling_of_its_address() {
    let (a, _) = &*NODES;
    let served = service("within", "127.0.0.1:1");
    a.knows(&served, &[a]);
    let bound = a.listen("within", |_| ()).unwrap();
    let port = bound.rsplit_once(':').unwrap().1;
    for spelling in ["localhost", "0.0.0.0", "[::ffff:127.0.0.1]"] {
        a.serve(&service("within", &format!("{spelling}:{port}")));
        let counted = a.plane.tables().load().served.named("within").unwrap().local.clone();
        let before = counted.refused.load(Relaxed);
        is_reset(&mut connect(&bound));
        assert!(counted.refused.load(Relaxed) > before, "it went round by {spelling}");
    }
}

#[test]
fn a_service_may_be_a_listener_of_another_one() {
    let (a, _) = &*NODES;
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let inner = service("inner", &server.local_addr().unwrap().to_string());
    a.serve(&inner);
    a.knows(&inner, &[a]);
    let bound = a.listen("inner", |_| ()).unwrap();
    let outer = service("outer", &bound);
    a.serve(&outer);
    a.knows(&outer, &[a]);
    let mut client = connect(&a.listen("outer", |_| ()).unwrap());
    client.write_all(b"through both").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut accept(&server)), b"through both");
}
