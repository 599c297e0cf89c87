//! A logger that blocks. The logger is process-wide, so the test runs in its own process.

use std::sync::{
    atomic::{AtomicBool, Ordering},
    mpsc,
};

use actix::System;
use actix_quorum::{Connection, QuorumActor};
use log::{LevelFilter, Log, Metadata, Record};
use parking_lot::Mutex;

use crate::support::{FakeLibquorum, connected, eventually, fake_source, quorate};

/// Blocks while the other end of its channel exists.
struct Blocking {
    blocked: Mutex<Option<mpsc::Receiver<()>>>,
    /// Whether the gain was logged. After the gain, the actor logs nothing until the loss.
    has_logged_gain: AtomicBool,
}

impl Log for Blocking {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("actix_quorum")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if let Some(blocked) = &*self.blocked.lock() {
            let _ = blocked.recv();
        }
        if record.args().to_string().starts_with("quorate") {
            self.has_logged_gain.store(true, Ordering::Release);
        }
    }

    fn flush(&self) {}
}

static LOGGER: Blocking =
    Blocking { blocked: Mutex::new(None), has_logged_gain: AtomicBool::new(false) };

#[test]
#[ignore = "needs a C compiler: make test"]
fn a_loss_is_published_while_the_logger_blocks() {
    own_process!();
    log::set_logger(&LOGGER).unwrap();
    log::set_max_level(LevelFilter::Info);
    let fake = FakeLibquorum::new("logger");
    System::new().block_on(async {
        let quorum = fake_source(QuorumActor::builder(), fake.path()).server_uid(None).start();
        connected(&quorum).await;
        fake.push_nodelist((1, 9), Some(&[1]), None, None);
        fake.push_quorum(1, (1, 9), Some(&[1]));
        quorate(&quorum).await;
        eventually("the gain is logged", || {
            LOGGER.has_logged_gain.load(Ordering::Acquire).then_some(())
        });
        let (unblock, blocked) = mpsc::channel();
        *LOGGER.blocked.lock() = Some(blocked);
        fake.hang_up();
        eventually("readers see the loss", || (!quorum.is_quorate()).then_some(()));
        eventually("the loss is published", || {
            let connection = quorum.snapshot().connection.clone();
            matches!(connection, Connection::Disconnected { .. }).then_some(())
        });
        drop(unblock);
        quorum.stop().await;
    });
}
