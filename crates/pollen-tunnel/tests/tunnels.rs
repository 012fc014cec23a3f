//! TCP and unix streams through two nodes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod circles;
mod common;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    process::Command,
    thread,
    time::Instant,
};

use pollen_tunnel::Socket;

use common::{
    NODES, Node, SOON, accept, at_b, connect, is_reset, link, read_all, reset, service, tunnel,
    until,
};

#[test]
fn the_end_of_one_direction_leaves_the_other_open() {
    for client_first in [true, false] {
        let name = if client_first { "half-there" } else { "half-back" };
        let (client, end, _) = tunnel(name);
        let (mut first, mut second) = if client_first { (client, end) } else { (end, client) };
        first.write_all(b"question").unwrap();
        first.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut second), b"question");
        second.write_all(b"answer").unwrap();
        second.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut first), b"answer");
    }
}

#[test]
fn a_reset_of_one_end_is_a_reset_at_the_other() {
    let (client, mut end, _) = tunnel("reset-there");
    reset(client);
    is_reset(&mut end);
    let (mut client, end, _) = tunnel("reset-back");
    reset(end);
    is_reset(&mut client);
}

#[test]
fn a_client_that_is_reset_while_nobody_reads_is_noticed() {
    let (mut client, end, _) = tunnel("reset-full");
    client.set_write_timeout(Some(SOON)).unwrap();
    while client.write(&[0; 1 << 16]).is_ok() {}
    reset(client);
    let open = || {
        NODES
            .0
            .plane
            .tables()
            .load()
            .services
            .named("reset-full")
            .unwrap()
            .local
            .open
            .load(std::sync::atomic::Ordering::Relaxed)
    };
    until(|| open() == 0);
    drop(end);
}

#[test]
fn many_bytes_pass_both_ways_at_once_and_whole() {
    let (client, end, _) = tunnel("bulk");
    let sent: Vec<u8> = (0..4_000_000u32).map(|i| (i * 31 % 251) as u8).collect();
    thread::scope(|scope| {
        for (mut writer, mut reader) in
            [(&client, client.try_clone().unwrap()), (&end, end.try_clone().unwrap())]
        {
            let sent = &sent;
            scope.spawn(move || {
                writer.write_all(sent).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            scope.spawn(move || assert!(read_all(&mut reader) == *sent));
        }
    });
}

#[test]
fn a_provider_whose_program_is_gone_is_passed_over_with_what_was_said() {
    let (a, b) = &*NODES;
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let good = service("next", &server.local_addr().unwrap().to_string());
    let bad = service("next", &gone.to_string());
    b.serve(&bad);
    a.serve(&good);
    a.knows(&good, &[b, a]);
    let mut client = a.client("next");
    client.write_all(b"said before anybody answered").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut end = accept(&server);
    assert_eq!(read_all(&mut end), b"said before anybody answered");
    // Alone it is what the client is told.
    a.knows(&good, &[b]);
    let told = a.refusal("next");
    assert_eq!(told.slug, "provider-refused");
    assert!(told.reason.contains("refused"), "{}", told.reason);
    let served = b.plane.tables().load().served.named("next").unwrap().local.clone();
    assert_eq!(served.failing.load(std::sync::atomic::Ordering::Relaxed), 2);
}

#[test]
fn who_gets_no_tunnel_is_told_why() {
    let (a, b) = &*NODES;
    assert_eq!(a.refusal("never-heard-of").slug, "service-not-found");
    let mut gated = service("gated", "127.0.0.1:9");
    gated.allow = vec![("team".to_owned(), "y".to_owned())];
    b.serve(&gated);
    a.knows(&gated, &[b]);
    let told = a.refusal("gated");
    assert_eq!(told.slug, "denied");
    assert!(told.remedy.contains("team=y"), "{}", told.remedy);
    // The same gate holds for this node's own clients.
    a.serve(&gated);
    a.knows(&gated, &[a]);
    assert_eq!(a.refusal("gated").slug, "denied");
    a.knows(&gated, &[]);
    assert_eq!(a.refusal("gated").slug, "unreachable");
}

#[test]
fn a_gate_that_closes_cuts_the_tunnels_that_are_open() {
    let (_, b) = &*NODES;
    let (mut client, mut end, mut served) = tunnel("closing");
    served.allow = vec![("team".to_owned(), "x".to_owned())];
    b.serve(&served);
    client.write_all(b"y").unwrap();
    end.read_exact(&mut [0]).unwrap();
    served.allow = vec![("team".to_owned(), "y".to_owned())];
    let began = Instant::now();
    b.serve(&served);
    is_reset(&mut client);
    is_reset(&mut end);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[test]
fn a_service_that_is_not_served_any_more_cuts_its_tunnels() {
    let (_, b) = &*NODES;
    let (mut client, mut end, served) = tunnel("unserved");
    b.push(|push| push.served.gone.push(served.key));
    is_reset(&mut client);
    is_reset(&mut end);
    let (mut client, _end, mut served) = tunnel("moved");
    served.target = "127.0.0.1:9".into();
    b.serve(&served);
    is_reset(&mut client);
}

#[test]
fn a_member_that_leaves_loses_its_tunnels() {
    let (_, b) = &*NODES;
    let c = Node::start();
    link(&c, b);
    let (server, served) = at_b("leaving");
    c.knows(&served, &[b]);
    let mut client = c.client("leaving");
    let mut end = accept(&server);
    let began = Instant::now();
    b.push(|push| push.peers.gone.push(c.id()));
    is_reset(&mut client);
    is_reset(&mut end);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert!(b.metric("tunnels_cut") > 0);
    c.tunnels.close();
}

#[test]
fn a_closed_listener_takes_nobody_and_ends_its_clients() {
    let (a, _) = &*NODES;
    let (server, _) = at_b("disconnected");
    let mut number = 0;
    let bound = a.listen("disconnected", |asked| number = asked.listener).unwrap();
    let mut client = connect(&bound);
    let _end = accept(&server);
    a.tunnels.close_listener(number);
    is_reset(&mut client);
    until(|| std::net::TcpStream::connect(&bound).is_err());
}

#[test]
fn this_nodes_own_service_is_reached_without_a_link() {
    let (a, _) = &*NODES;
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = service("own", &server.local_addr().unwrap().to_string());
    a.serve(&own);
    a.knows(&own, &[a]);
    let mut client = a.client("own");
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut end = accept(&server);
    assert_eq!(read_all(&mut end), b"question");
    end.write_all(b"answer").unwrap();
    drop(end);
    assert_eq!(read_all(&mut client), b"answer");
}

#[test]
fn a_service_that_wants_to_know_is_told_the_callers_node() {
    let (a, b) = &*NODES;
    let (server, mut served) = at_b("proxied");
    served.proxy_header = true;
    b.serve(&served);
    let mut client = a.client("proxied");
    client.write_all(b"x").unwrap();
    let mut end = accept(&server);
    let mut header = [0; 16 + 12 + 3 + 64 + 1];
    end.read_exact(&mut header).unwrap();
    assert_eq!(header[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x4f");
    let port = server.local_addr().unwrap().port().to_be_bytes();
    assert_eq!(header[26..28], port);
    assert_eq!(header[31..95], *pollen_plane::hex::hex(&a.id()).as_bytes());
    assert_eq!(header[95], b'x');
}

#[test]
fn both_ends_may_be_unix_sockets() {
    let (a, b) = &*NODES;
    let folder = tempfile::tempdir().unwrap();
    let (near, far) = (folder.path().join("near"), folder.path().join("far"));
    let server = UnixListener::bind(&far).unwrap();
    let served = service("unix", &format!("unix:{}", far.display()));
    b.serve(&served);
    a.knows(&served, &[b]);
    let bind = format!("unix:{}", near.display());
    let listen = || a.listen("unix", |asked| asked.bind.clone_from(&bind));
    // A socket that nobody serves any more is replaced.
    drop(UnixListener::bind(&near).unwrap());
    assert_eq!(listen().unwrap(), bind);
    assert_eq!(std::fs::metadata(&near).unwrap().permissions().mode() & 0o777, 0o600);
    let mut client = UnixStream::connect(&near).unwrap();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (mut end, _) = server.accept().unwrap();
    assert_eq!(read_all(&mut end), b"question");
    end.write_all(b"answer").unwrap();
    drop(end);
    assert_eq!(read_all(&mut client), b"answer");
    assert_eq!(listen().unwrap_err(), "port-in-use");
    let file = folder.path().join("file");
    std::fs::write(&file, "kept").unwrap();
    let taken = a.listen("unix", |asked| asked.bind = format!("unix:{}", file.display()));
    assert_eq!(taken.unwrap_err(), "usage");
    assert_eq!(std::fs::read(&file).unwrap(), b"kept");
}

/// A service whose program takes no client yet: its backlog is full.
fn full(name: &str) -> (TcpListener, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let server = TcpListener::from(socket);
    let address = server.local_addr().unwrap();
    let waits: Vec<_> = std::iter::from_fn(|| {
        TcpStream::connect_timeout(&address, std::time::Duration::from_millis(300)).ok()
    })
    .take(16)
    .collect();
    assert!(waits.len() < 16, "the backlog never filled");
    let (a, b) = &*NODES;
    let served = service(name, &address.to_string());
    b.serve(&served);
    a.knows(&served, &[b]);
    (server, waits)
}

/// Takes who comes until nobody came for a while; what each said, or why that ended.
fn said_to(server: &TcpListener) -> Vec<std::io::Result<Vec<u8>>> {
    server.set_nonblocking(true).unwrap();
    let mut said = Vec::new();
    let mut last = Instant::now();
    // Longer than the kernel takes to try again: 1, 2 s.
    while last.elapsed() < std::time::Duration::from_secs(5) {
        let Ok((mut end, _)) = server.accept() else {
            thread::sleep(std::time::Duration::from_millis(5));
            continue;
        };
        end.set_nonblocking(false).unwrap();
        let mut bytes = Vec::new();
        said.push(end.read_to_end(&mut bytes).map(|_| bytes));
        last = Instant::now();
    }
    said
}

#[test]
fn a_client_that_resets_while_a_provider_is_asked_is_no_whole_upload() {
    let (server, waits) = full("early-reset");
    let bound = NODES.0.listen("early-reset", |_| ()).unwrap();
    let clients: Vec<_> = (0..12).map(|_| connect(&bound)).collect();
    for mut client in clients {
        client.write_all(b"partial").unwrap();
        thread::sleep(std::time::Duration::from_millis(20));
        reset(client);
    }
    drop(waits);
    for said in said_to(&server) {
        // Those that filled the backlog said nothing and ended.
        assert!(said.as_ref().map_or(true, |bytes| bytes.is_empty()), "{said:?}");
    }
}

#[test]
fn a_unix_socket_of_another_program_never_holds_a_node_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("busy");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let _waits = UnixStream::connect(&path).unwrap();
    let bind = format!("unix:{}", path.display());
    let taken = NODES.0.listen("unix", |asked| asked.bind = bind);
    assert_eq!(taken.unwrap_err(), "port-in-use");
}

#[test]
fn an_address_whose_clients_have_no_user_is_for_any_user_or_not_at_all() {
    let (a, _) = &*NODES;
    let (_server, _) = at_b("everybody");
    for bind in ["0.0.0.0:0", "[::]:0"] {
        for datagrams in [false, true] {
            let listen = |any_user| {
                a.listen("everybody", |asked| {
                    (asked.bind, asked.datagrams) = (bind.to_owned(), datagrams);
                    asked.any_user = any_user;
                })
            };
            assert_eq!(listen(false).unwrap_err(), "usage", "{bind}");
            assert!(listen(true).is_ok(), "{bind}");
        }
    }
}

#[test]
fn loopback_that_is_written_as_ipv6_asks_whose_a_client_is() {
    if pollen_plane::own_uid() != 0 {
        eprintln!("not root: no other user to play");
        return;
    }
    let (a, _) = &*NODES;
    let (server, _) = at_b("mapped");
    let bound = a.listen("mapped", |asked| asked.bind = "[::ffff:127.0.0.1]:0".to_owned()).unwrap();
    let port = bound.rsplit_once(':').unwrap().1;
    let before = a.refused("user");
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; timeout 5 cat <&3");
    let refused =
        Command::new("bash").arg("-c").arg(script).uid(65534).gid(65534).output().unwrap();
    assert_eq!(refused.stdout, b"");
    assert_eq!(a.refused("user"), before + 1);
    let mut client = connect(&format!("127.0.0.1:{port}"));
    client.write_all(b"own").unwrap();
    accept(&server).read_exact(&mut [0; 3]).unwrap();
}

#[test]
fn another_user_of_this_machine_is_reset_unless_any_may_come() {
    if pollen_plane::own_uid() != 0 {
        eprintln!("not root: no other user to play");
        return;
    }
    let (a, _) = &*NODES;
    let (server, _) = at_b("users");
    let said = |bound: &str| {
        let (host, port) = bound.rsplit_once(':').unwrap();
        let script = format!("exec 3<>/dev/tcp/{host}/{port}; echo hello >&3; cat <&3");
        Command::new("bash").arg("-c").arg(script).uid(65534).gid(65534).output().unwrap()
    };
    let own = a.listen("users", |_| ()).unwrap();
    let before = a.refused("user");
    // The reset may meet its first write, and then bash still ends well.
    assert_eq!(said(&own).stdout, b"");
    assert_eq!(a.refused("user"), before + 1);
    let open = a.listen("users", |asked| asked.any_user = true).unwrap();
    let server = thread::spawn(move || {
        let mut end = accept(&server);
        let mut line = [0; 6];
        end.read_exact(&mut line).unwrap();
        end.write_all(&line).unwrap();
    });
    assert_eq!(said(&open).stdout, b"hello\n");
    server.join().unwrap();
}

/// A client of the door, with a tunnel to the service that runs until it ends.
fn at_the_door(name: &str) -> (UnixStream, TcpStream, pollen_tunnel::Want) {
    let (a, _) = &*NODES;
    let (server, _) = at_b(name);
    let want = pollen_tunnel::Want::stream(name, None);
    let (near, mut client) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    client.set_read_timeout(Some(common::PATIENCE)).unwrap();
    client.write_all(b"frame").unwrap();
    let (tunnels, wanted) = (a.tunnels.clone(), want.clone());
    a.plane.handle().spawn(async move {
        let near = Socket::holding(tokio::net::UnixStream::from_std(near).unwrap());
        let mut frame = [0; 5];
        near.read_exact(&mut frame).await.unwrap();
        assert_eq!(&frame, b"frame");
        if let Ok(opened) = tunnels.open(&near, &wanted).await {
            tunnels.run(near, opened).await;
        }
    });
    let end = accept(&server);
    (client, end, want)
}

#[test]
fn a_client_of_the_door_sees_a_reset_where_a_tunnel_broke() {
    for says in [&b""[..], b"x", &[7; 300_000]] {
        for ends in [false, true] {
            let (mut client, mut end, _) = at_the_door(&format!("door-{}-{ends}", says.len()));
            client.write_all(says).unwrap();
            if ends {
                client.shutdown(Shutdown::Write).unwrap();
                assert!(read_all(&mut end) == says);
            } else {
                end.read_exact(&mut vec![0; says.len()]).unwrap();
            }
            end.write_all(b"half").unwrap();
            client.read_exact(&mut [0; 4]).unwrap();
            reset(end);
            let error = client.read(&mut [0; 64]).expect_err("a reset, not an end");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
}

#[test]
fn a_client_of_the_door_sees_the_end_of_a_tunnel_that_ended_well() {
    let said: Vec<u8> = (0..3_000_000u32).map(|i| (i * 31 % 251) as u8).collect();
    for client_first in [true, false] {
        let (mut client, mut end, _) = at_the_door(&format!("door-well-{client_first}"));
        thread::scope(|scope| {
            let mut writer = client.try_clone().unwrap();
            let said = &said;
            scope.spawn(move || {
                for piece in said.chunks(70_001) {
                    writer.write_all(piece).unwrap();
                }
                if client_first {
                    writer.shutdown(Shutdown::Write).unwrap();
                }
            });
            let mut came = vec![0; said.len()];
            end.read_exact(&mut came).unwrap();
            assert!(came == *said);
        });
        end.write_all(b"answer").unwrap();
        end.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client), b"answer");
        client.shutdown(Shutdown::Write).ok();
        assert_eq!(read_all(&mut end), b"");
        assert_eq!(read_all(&mut client), b"");
    }
}
