//! A server in Corosync's place that accepts connections and never answers.

use std::{
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::{Netns, as_user, eventually};

/// Listens on the abstract socket of a service, as a user. Drop ends every connection.
pub struct Impostor {
    taken: Arc<Mutex<Vec<UnixStream>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Impostor {
    pub fn start(netns: &Netns, uid: u32, service: &str) -> Self {
        let name = address(service);
        let listener = netns
            .run(|| as_user(uid, uid, || UnixListener::bind_addr(&name)))
            .expect("no other process listens on this name");
        listener.set_nonblocking(true).unwrap();
        let (taken, ends) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (into, end) = (Arc::clone(&taken), Arc::clone(&ends));
        let take = move || {
            eventually("the impostor is no longer needed", || {
                into.lock().unwrap().extend(listener.accept().map(|(stream, _)| stream));
                end.load(Ordering::Acquire).then_some(())
            });
        };
        Self { taken, ends, thread: Some(thread::spawn(take)) }
    }

    /// Waits until it has accepted this many connections.
    #[track_caller]
    pub fn wait_taken(&self, connections: usize) {
        eventually(&format!("the impostor takes {connections} connections"), || {
            (self.taken.lock().unwrap().len() >= connections).then_some(())
        });
    }

    /// Stops listening, so that another server can. The connections stay open.
    pub fn stop_listening(&mut self) {
        self.ends.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
    }
}

/// Connects to a service in the namespace, as other code of the process may.
pub fn connect_as_other_code(netns: &Netns, service: &str) -> UnixStream {
    let name = address(service);
    netns.run(|| UnixStream::connect_addr(&name)).expect("a process listens on this name")
}

/// Returns the service's address. libqb pads the name with zeros.
fn address(service: &str) -> SocketAddr {
    let mut name = [0; 107];
    name[..service.len()].copy_from_slice(service.as_bytes());
    SocketAddr::from_abstract_name(name).expect("the name is short enough")
}
