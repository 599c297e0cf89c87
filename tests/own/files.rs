//! libqb's sockets in the file system, as for containers that cannot share a network namespace.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use actix_quorum::{Connection, Error, Quorum};

use crate::support::{Ipc, Node, Watcher};

/// A Corosync that stops normally removes its socket file. The actor must treat the missing file as
/// a daemon that is not running, and not as an error with long delays.
#[test]
#[ignore = "needs root and corosync: make test"]
fn a_restarted_corosync_is_found_through_its_socket_file_without_a_long_delay() {
    if env::var_os("CLIENT").is_some() {
        return be_client();
    }
    let node = Node::single_with(|config| config.ipc = Ipc::Files);
    let mut client = node.run(|| {
        Command::new("unshare")
            .args([
                "--mount",
                "sh",
                "-c",
                &format!("{} && exec \"$0\" \"$@\"", node.corosync.files()),
            ])
            .arg(env::current_exe().unwrap())
            .args([
                "--exact",
                "files::a_restarted_corosync_is_found_through_its_socket_file_without_a_long_delay",
            ])
            .args(["--ignored", "--nocapture"])
            .env("CLIENT", "yes")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let lines = BufReader::new(client.stdout.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        println!("{line}");
        match line.as_str() {
            "quorate" => node.corosync.stop(),
            "absent" => node.corosync.start(),
            _ => {}
        }
    }
    assert!(client.wait().unwrap().success());
}

fn be_client() {
    let watcher = Watcher::here(|builder| builder);
    watcher.until_settled(Quorum::Quorate, &[1]);
    println!("\nquorate");
    watcher.until_lost();
    // With the delays of a transient error, this many attempts would take ten minutes.
    watcher.until("the actor has tried many times", |change| {
        let Connection::Connecting { attempt, error, .. } = &change.current.connection else {
            return false;
        };
        *attempt >= 64 && *error == Some(Error::NoSocket)
    });
    println!("absent");
    watcher.until_settled(Quorum::Quorate, &[1]);
}
