//! The harness itself: if these tests fail, the tests on real daemons prove nothing.

use std::{
    env,
    ffi::c_int,
    fs,
    os::{fd::BorrowedFd, unix::process::ExitStatusExt},
    panic,
    path::PathBuf,
    process::{self, Command},
    ptr, slice,
    sync::Mutex,
    thread,
};

use actix_quorum::libquorum::Handle;
use corosync_sys::{
    CS_DISPATCH_ONE_NONBLOCKING, CS_OK, QUORUM_MODEL_V1, Quorum, cs_error_t, quorum_handle_t,
    quorum_model_v1_data_t, quorum_ring_id, quorum_v1_quorum_notification_fn_t,
};
use libloading::{Library, Symbol};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::support::{
    FakeLibquorum, Ipc, Netns, Node, Variant, as_user, client_of, command, dev_shm_entries,
    eventually, fake_libquorum, open_fds, rss_kib, shm_of, small_dev_shm, sweep, unique_name,
};

#[test]
#[ignore = "needs root and corosync: make test"]
fn one_node_comes_up_quorate() {
    let node = Node::single();
    let shown = node.corosync.quorumtool().expect("the node is ready");
    assert!(shown.quorate, "not quorate: {shown:?}");
    assert_eq!(shown.members, [1]);
    assert!(shown.ring_id.starts_with("1."), "{shown:?}");
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn two_single_nodes_run_at_the_same_time() {
    let (a, b) = (Node::single(), Node::single_with(|config| config.ipc = Ipc::Socket));
    a.corosync.expected_votes(3);
    a.wait_members(false, &[1]);
    b.wait_members(true, &[1]);
    a.corosync.kill();
    b.wait_members(true, &[1]);
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_node_without_a_provider_accepts_clients() {
    let node = Node::single_with(|config| config.provider = None);
    assert!(node.corosync.exit_status().is_none());
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_changed_configuration_is_reloaded() {
    let node = Node::single();
    node.corosync.configure(|config| config.quorum.push("expected_votes: 3".to_owned()));
    node.corosync.reload();
    node.wait_members(false, &[1]);
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_daemon_that_a_tool_shuts_down_is_reaped() {
    let node = Node::single();
    let pid = node.corosync.pid();
    node.corosync.tool("corosync-cfgtool", &["-H"]);
    eventually("the daemon is reaped", || node.corosync.exit_status());
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    node.corosync.start();
    node.corosync.wait_ready();
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_dropped_node_leaves_nothing_behind() {
    let node = Node::single();
    let name = node.netns.name().to_owned();
    let directory = node.corosync.config_dir().parent().unwrap().to_owned();
    let killed = node.corosync.pid();
    node.corosync.restart();
    node.corosync.wait_ready();
    let running = node.corosync.pid();
    let mut other = node.run(|| Command::new("sleep").arg("1000").spawn().unwrap());
    assert!(!shm_of(killed).is_empty() && !shm_of(running).is_empty());

    drop(node);
    assert_eq!(other.wait().unwrap().signal(), Some(9));
    assert!(!command("ip", &["netns", "list"]).contains(&format!("{name} ")));
    assert!(!fs::exists(directory).unwrap());
    for pid in [killed, running] {
        assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
        assert_eq!(shm_of(pid), [""; 0]);
    }
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn leftovers_of_a_dead_process_are_removed() {
    // The first call of this function in a process removes leftovers. This must not happen later in
    // the test.
    unique_name();
    let mut owner = Command::new("sleep").arg("1000").spawn().unwrap();
    let name = format!("aq-{}-0", owner.id());
    let directory = env::temp_dir().join(&name);
    let shm = PathBuf::from(format!("/dev/shm/qb-{}-1-2-abcdef", owner.id()));
    command("ip", &["netns", "add", &name]);
    fs::create_dir(&directory).unwrap();
    fs::create_dir(&shm).unwrap();
    fs::write(directory.join("pids"), owner.id().to_string()).unwrap();
    let mut inside =
        Command::new("ip").args(["netns", "exec", &name, "sleep", "1000"]).spawn().unwrap();
    eventually("the process is in the namespace", || {
        let pids = Command::new("ip").args(["netns", "pids", &name]).output().unwrap().stdout;
        String::from_utf8_lossy(&pids).contains(&inside.id().to_string()).then_some(())
    });

    sweep();
    assert!(fs::exists(&directory).unwrap() && fs::exists(&shm).unwrap());

    owner.kill().unwrap();
    owner.wait().unwrap();
    sweep();
    assert_eq!(inside.wait().unwrap().signal(), Some(9));
    // Another test process may be removing these leftovers too, and be faster.
    eventually("the namespace, the directory and the shared memory are gone", || {
        let named = command("ip", &["netns", "list"]).contains(&name);
        let there = fs::exists(&directory).unwrap() || fs::exists(&shm).unwrap();
        (!named && !there).then_some(())
    });
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_small_dev_shm_is_shared_with_the_daemon() {
    small_dev_shm("32m", || {
        let node = Node::single();
        assert!(!shm_of(node.corosync.pid()).is_empty());
        // The daemon's blackbox takes 8 MiB and a connection takes 3 MiB. The tool opens four
        // connections.
        fs::write("/dev/shm/ballast", vec![0; 20 << 20]).unwrap();
        let refused = node.corosync.tool("corosync-quorumtool", &["-s"]);
        assert!(!refused.status.success());
        fs::remove_file("/dev/shm/ballast").unwrap();
        node.wait_members(true, &[1]);
    });
    assert!(!fs::exists("/dev/shm/ballast").unwrap());
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn as_user_does_not_change_the_user_of_the_calling_thread() {
    let me = || rustix::thread::gettid();
    let ids = || fs::read_to_string(format!("/proc/self/task/{}/status", me().as_raw_pid()));
    as_user(65534, 65533, || {
        let ids = ids().unwrap();
        assert!(ids.contains("Uid:\t65534\t65534\t65534"), "{ids}");
        assert!(ids.contains("Gid:\t65533\t65533\t65533"), "{ids}");
    });
    assert!(ids().unwrap().contains("Uid:\t0\t0\t0"));
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_panic_inside_a_namespace_reaches_the_caller() {
    let netns = Netns::new();
    let caught = panic::catch_unwind(|| netns.run(|| panic!("inside {}", netns.name())));
    let message = *caught.unwrap_err().downcast::<String>().unwrap();
    assert_eq!(message, format!("inside {}", netns.name()));
}

#[test]
fn the_descriptors_and_the_memory_of_this_process_are_measured() {
    let files: Vec<fs::File> = (0..200).map(|_| fs::File::open("/").unwrap()).collect();
    assert!(open_fds() > files.len());
    assert!(rss_kib() > 100);
}

#[test]
fn only_a_directory_of_a_connection_names_a_client() {
    assert_eq!(client_of("qb-12-345-6-AbCdEf"), Some(345));
    assert_eq!(client_of("qb-corosync-345-blackbox-data"), None);
    assert_eq!(client_of("other-12-345-6-AbCdEf"), None);
}

#[test]
#[ignore = "needs root and corosync: make test"]
fn a_connection_is_visible_in_dev_shm_while_it_is_open() {
    let node = Node::single();
    let server = format!("qb-{}-", node.corosync.pid());
    // Other tests of this process may be connected to other daemons.
    let connections = || {
        let entries = dev_shm_entries(process::id());
        entries.iter().filter(|entry| entry.starts_with(&server)).count()
    };
    assert_eq!(connections(), 0);
    let handle = node.run(|| Handle::initialize().unwrap());
    assert_eq!(connections(), 1);
    drop(handle);
    eventually("the connection is gone", || (connections() == 0).then_some(()));
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_fake_libquorum_follows_its_script() {
    static SEEN: Mutex<Vec<(u32, Option<Vec<u32>>)>> = Mutex::new(Vec::new());

    extern "C" fn on_quorum(
        _: quorum_handle_t,
        quorate: u32,
        _: quorum_ring_id,
        entries: u32,
        members: *const u32,
    ) {
        let members = (!members.is_null()).then(|| {
            // SAFETY: the fake keeps the list during the call.
            unsafe { slice::from_raw_parts(members, entries as usize) }.to_vec()
        });
        SEEN.lock().unwrap().push((quorate, members));
    }

    let fake = FakeLibquorum::new("harness_fake");
    let library = Fake::load(&fake);
    let (code, handle) = library.model_initialize(Some(on_quorum));
    assert_eq!((code, fake.open_handles()), (1, 1));

    let many: Vec<u32> = (0..500).collect();
    fake.push_quorum(1, (1, 42), Some(&many));
    fake.push_nodelist((1, 42), Some(&many), None, Some(&[]));
    fake.push_quorum(0, (1, 43), None);
    assert!(library.is_readable(handle));
    for _ in 0..3 {
        assert_eq!(library.dispatch(handle), 1);
    }
    assert_eq!(library.dispatch(handle), 6);
    assert!(!library.is_readable(handle));
    assert_eq!(*SEEN.lock().unwrap(), [(1, Some(many)), (0, None)]);

    fake.wake();
    assert!(library.is_readable(handle));
    assert_eq!(library.dispatch(handle), 6);
    fake.fail("quorum_dispatch", 9, 1);
    assert_eq!([library.dispatch(handle), library.dispatch(handle)], [9, 6]);
    assert_eq!(fake.calls("quorum_dispatch"), 7);

    fake.hang_up_silently();
    assert!(!library.is_readable(handle));
    assert_eq!(library.dispatch(handle), 2);
    assert_eq!(library.finalize(handle), 1);
    assert_eq!((library.finalize(handle), fake.open_handles()), (9, 0));

    let (_, handle) = library.model_initialize(None);
    fake.hang_up();
    assert!(library.is_readable(handle));
    assert_eq!((library.dispatch(handle), library.finalize(handle)), (2, 1));
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_blocked_function_of_the_fake_waits_until_it_is_unblocked() {
    let fake = FakeLibquorum::new("harness_blocked");
    let library = Fake::load(&fake);
    fake.block("quorum_model_initialize");
    let blocked = thread::spawn(move || {
        let (code, handle) = library.model_initialize(None);
        (code, library.finalize(handle))
    });
    eventually("quorum_model_initialize is called", || {
        (fake.calls("quorum_model_initialize") == 1).then_some(())
    });
    assert!(!blocked.is_finished());
    fake.unblock("quorum_model_initialize");
    assert_eq!(blocked.join().unwrap(), (1, 1));
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn each_variant_of_the_fake_libquorum_behaves_differently() {
    let old = FakeLibquorum::variant("harness_no_model", Variant::NoModel);
    assert!(Fake::load(&old).0.model_initialize().is_err(), "this variant lacks the function");

    let plain = FakeLibquorum::new("harness_plain");
    plain.fail_always("quorum_model_initialize", 11);
    let (code, handle) = Fake::load(&plain).model_initialize(None);
    assert_eq!((code, handle, plain.open_handles()), (11, 0, 0));
    plain.succeed("quorum_model_initialize");
    assert_eq!(Fake::load(&plain).model_initialize(None).0, 1);

    let keeps = FakeLibquorum::variant("harness_keeps", Variant::FailKeepsHandle);
    keeps.fail("quorum_model_initialize", 7, 1);
    let library = Fake::load(&keeps);
    let (code, handle) = library.model_initialize(None);
    assert_eq!((code, keeps.open_handles()), (7, 1));
    assert_eq!((library.finalize(handle), keeps.open_handles()), (1, 0));
}

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_fake_library_is_compiled_from_the_given_source() {
    let path = fake_libquorum("harness_own_source", "int quorum_answer(void) { return 42; }");
    // SAFETY: the library has no initializers.
    let library = unsafe { Library::new(path) }.unwrap();
    type Answer = extern "C" fn() -> c_int;
    // SAFETY: the type is the one in the source above.
    let answer: Symbol<'_, Answer> = unsafe { library.get("quorum_answer") }.unwrap();
    assert_eq!(answer(), 42);
}

/// A client of the fake.
struct Fake(Quorum);

impl Fake {
    fn load(fake: &FakeLibquorum) -> Self {
        // SAFETY: the library has no initializers, and its functions have libquorum's types.
        Self(unsafe { Quorum::load_from(fake.path()) }.unwrap())
    }

    fn model_initialize(
        &self,
        on_quorum: quorum_v1_quorum_notification_fn_t,
    ) -> (cs_error_t, quorum_handle_t) {
        let mut data = quorum_model_v1_data_t {
            model: QUORUM_MODEL_V1,
            quorum_notify_fn: on_quorum,
            nodelist_notify_fn: None,
        };
        let (mut handle, mut kind, data) = (0, 0, (&raw mut data).cast());
        let initialize = self.0.model_initialize().unwrap();
        // SAFETY: all pointers are to locals, or null.
        let code =
            unsafe { initialize(&mut handle, QUORUM_MODEL_V1, data, &mut kind, ptr::null_mut()) };
        (code, handle)
    }

    fn dispatch(&self, handle: quorum_handle_t) -> cs_error_t {
        // SAFETY: the fake accepts an invalid handle.
        unsafe { (self.0.quorum_dispatch)(handle, CS_DISPATCH_ONE_NONBLOCKING) }
    }

    fn finalize(&self, handle: quorum_handle_t) -> cs_error_t {
        // SAFETY: the fake accepts an invalid handle.
        unsafe { (self.0.quorum_finalize)(handle) }
    }

    fn is_readable(&self, handle: quorum_handle_t) -> bool {
        let mut fd = -1;
        // SAFETY: the pointer is to a local.
        assert_eq!(unsafe { (self.0.quorum_fd_get)(handle, &mut fd) }, CS_OK);
        // SAFETY: the fake keeps it open until `finalize`.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)).unwrap() == 1
    }
}
