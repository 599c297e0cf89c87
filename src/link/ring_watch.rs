//! Reads the daemon's counters that show whether its ring is alive (`cmap_keys(7)`, `stats.srp.*`).

use std::{
    ffi::CStr,
    fmt, mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use crate::{
    error::{Code, Error},
    libquorum::{canceller::Canceller, cmap::Cmap},
    link::{
        clock::{Clock, Moment},
        ring_reading::{HeldReadings, RingCounters, RingReading, RingUpdate, ShortReading},
        trust::TrustPolicy,
        worker::{Answers, Responder, Schedule, Worker},
    },
};

/// Reads the counters of a daemon.
pub trait RingWatch: fmt::Debug + Send + Sync {
    /// Requests reads on a schedule, until another request is made. An answer may be late or never
    /// arrive: a daemon that is synchronising answers only on connections that were opened after
    /// the synchronisation began.
    ///
    /// `steady` is a reading of a daemon that has stayed in OPERATIONAL. If it is given, most reads
    /// are short ([`RingReading::goes_on`]), and one answer may contain several readings that
    /// repeat `steady` ([`RingReading::reads_together`]).
    fn read(&self, schedule: Schedule, steady: Option<RingReading>) -> Answers<Vec<RingUpdate>>;

    /// Cancels a read that a live daemon does not answer. The next read opens another connection,
    /// which the daemon answers even while it is synchronising. Returns `false`, and cancels
    /// nothing, if the read has only recently begun to open a connection.
    ///
    /// Without the cancellation, the daemon would spin at real-time priority while the request
    /// waits, because the request keeps a descriptor readable (libqb `lib/ipcs.c`).
    fn cancel(&self) -> bool;

    /// Cancels a read that has been opening a connection for a long time, because no other thread
    /// of this process can open one meanwhile. Returns `false`, and cancels nothing, if the
    /// connection is open or its opening began only recently.
    fn cancel_connect(&self) -> bool;

    /// Closes the connections and cancels waiting requests. Returns when that is done.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Makes one read at a time, on its own thread and its own connections: the daemon may answer
/// votequorum while it does not answer libcmap.
#[derive(Debug)]
pub(crate) struct RingThread {
    trust: TrustPolicy,
    clock: Clock,
    current: Mutex<Current>,
}

/// The thread that reads, and the canceller of its waiting request.
#[derive(Debug)]
struct Current {
    worker: Worker<Reader>,
    canceller: Canceller,
    /// Since when the thread has been opening its connections. `None` once they are open.
    connecting_since: Arc<Mutex<Option<Moment>>>,
    past: Arc<Past>,
}

/// What the current thread and its predecessors have done so far.
#[derive(Debug, Default)]
struct Past {
    /// How many times the pair of connections has been opened so far.
    connections: AtomicU64,
    /// Whether a read has succeeded, or was cancelled on open connections. Then a later failure
    /// does not mean that the counters are missing.
    was_watched: AtomicBool,
    /// The reason given in the last warning that the ring is not watched.
    warned: Mutex<Option<String>>,
}

impl RingThread {
    /// Creates the watch. `warned` is the reason given in a warning that has already been logged.
    pub(crate) fn new(trust: TrustPolicy, clock: Clock, warned: Option<String>) -> Self {
        let past = Arc::new(Past { warned: Mutex::new(warned), ..Past::default() });
        let current = Mutex::new(Current::new(trust, clock, past));
        Self { trust, clock, current }
    }
}

impl Current {
    fn new(trust: TrustPolicy, clock: Clock, past: Arc<Past>) -> Self {
        let canceller = Canceller::default();
        let connecting_since = Arc::new(Mutex::new(Some(clock.now())));
        let (used, since, shared) =
            (canceller.clone(), Arc::clone(&connecting_since), Arc::clone(&past));
        let worker = Worker::new("quorum-ring", move || Reader {
            trust,
            clock,
            maps: None,
            canceller: used.clone(),
            connecting_since: Arc::clone(&since),
            past: Arc::clone(&shared),
            held: HeldReadings::default(),
            tokens: 0,
            full_at: Moment::default(),
        });
        Self { worker, canceller, connecting_since, past }
    }
}

/// Cancels the call of a thread that was replaced, or whose actor was dropped.
impl Drop for Current {
    fn drop(&mut self) {
        self.canceller.cancel_to_the_end();
    }
}

impl RingWatch for RingThread {
    fn read(&self, schedule: Schedule, steady: Option<RingReading>) -> Answers<Vec<RingUpdate>> {
        self.current.lock().worker.ask_at(schedule, steady)
    }

    fn cancel(&self) -> bool {
        let current = self.current.lock();
        let connecting_since = *current.connecting_since.lock();
        if connecting_since.is_none() {
            current.past.was_watched.store(true, Ordering::Release);
            self.replace(current);
            return true;
        }
        drop(current);
        self.cancel_connect()
    }

    fn cancel_connect(&self) -> bool {
        let current = self.current.lock();
        let connecting_since = *current.connecting_since.lock();
        // A live daemon accepts a connection within this time. Another server in its place may
        // never accept it.
        let is_late = |since: Moment| self.clock.now().since(since) >= CONNECT_TIMEOUT;
        let cancels = connecting_since.is_some_and(is_late);
        if cancels {
            self.replace(current);
        }
        cancels
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let current = self.current.lock();
        // The waiting call is cancelled now, even if the returned future is not awaited.
        current.canceller.cancel();
        let (canceller, closed) = (current.canceller.clone(), current.worker.close());
        Box::pin(async move { canceller.cancel_until(closed).await })
    }
}

impl RingThread {
    /// Starts another thread in place of the current one, whose call is cancelled.
    fn replace(&self, mut current: MutexGuard<'_, Current>) {
        let past = Arc::clone(&current.past);
        let old = mem::replace(&mut *current, Current::new(self.trust, self.clock, past));
        drop(current);
        // Dropping `old` cancels the old thread's call, which returns within two seconds (libqb
        // `lib/ipcc.c`), and then the thread ends. The lock is released first, because the drop may
        // log.
        drop(old);
    }
}

/// Returns the text of a warning that the ring is not watched.
pub(crate) fn unwatched_warning(why: &str) -> String {
    format!(
        "corosync's ring is not watched, so this node may report quorum while the other nodes \
         continue without it, and is_exclusive() returns false: {why}"
    )
}

/// The state of the thread.
struct Reader {
    trust: TrustPolicy,
    clock: Clock,
    maps: Option<Maps>,
    canceller: Canceller,
    connecting_since: Arc<Mutex<Option<Moment>>>,
    past: Arc<Past>,
    /// Readings that are held back until a later one completes the answer.
    held: HeldReadings,
    /// How many tokens had arrived at the last read.
    tokens: u64,
    /// When all counters were last read.
    full_at: Moment,
}

/// The connections to the daemon.
struct Maps {
    /// The number of this pair of connections: see [`RingReading::connection`].
    number: u64,
    /// The map with the configuration and the timeouts.
    default: Cmap,
    /// The map with the counters. `None` with Corosync 2, which has them in the default map.
    statistics: Option<Cmap>,
    keys: Keys,
    /// `None` until it is read.
    configuration: Option<Configuration>,
}

/// What the daemon's configuration says about the ring. It is read again when the daemon reports a
/// change, so that each reading contains the configuration at the time of the read.
#[derive(Clone, Copy)]
struct Configuration {
    token: Duration,
    consensus: Duration,
    /// The votes of all nodes in the nodelist, if there is a nodelist.
    votes: Option<u32>,
}

/// The prefixes of the keys that [`Configuration`] is read from.
const CONFIGURATION: [&CStr; 2] = [c"runtime.config.totem.", c"nodelist."];

/// The keys of the counters, and how old their values may be.
struct Keys {
    gather_entered: &'static CStr,
    operational_entered: &'static CStr,
    token_lost: &'static CStr,
    recovery_token_lost: &'static CStr,
    recovery_entered: &'static CStr,
    tokens: &'static CStr,
    age: Duration,
}

/// The keys of Corosync 3, which reads the counters on request (`exec/stats.c`).
const COROSYNC_3: Keys = Keys {
    gather_entered: c"stats.srp.gather_entered",
    operational_entered: c"stats.srp.operational_entered",
    token_lost: c"stats.srp.operational_token_lost",
    recovery_token_lost: c"stats.srp.recovery_token_lost",
    recovery_entered: c"stats.srp.recovery_entered",
    tokens: c"stats.srp.orf_token_rx",
    age: Duration::ZERO,
};

/// The keys of Corosync 2, which copies the counters every 1.5 s (`exec/main.c`,
/// `corosync_totem_stats_updater`).
const COROSYNC_2: Keys = Keys {
    gather_entered: c"runtime.totem.pg.mrp.srp.gather_entered",
    operational_entered: c"runtime.totem.pg.mrp.srp.operational_entered",
    token_lost: c"runtime.totem.pg.mrp.srp.operational_token_lost",
    recovery_token_lost: c"runtime.totem.pg.mrp.srp.recovery_token_lost",
    recovery_entered: c"runtime.totem.pg.mrp.srp.recovery_entered",
    tokens: c"runtime.totem.pg.mrp.srp.orf_token_rx",
    age: Duration::from_millis(1500),
};

/// How long to wait for a live daemon to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How old the last full read may be when a short read is made. If the counters have not moved for
/// longer than the token and consensus timeouts together, the daemon is very likely in OPERATIONAL,
/// but it may also be recovering messages for that long. So all counters are read now and then.
const FULL_READ: Duration = Duration::from_secs(5);

/// The reason for a failed read.
enum Failed {
    /// No read can succeed until libcmap, Corosync or the server is replaced.
    Unwatchable(String),
    /// The service does not accept the connection. `answer` decides whether the next attempt may
    /// succeed.
    Refused(Error),
    /// The next attempt may succeed.
    Transient(Error),
}

impl Responder for Reader {
    type Request = Option<RingReading>;
    type Answer = Vec<RingUpdate>;

    fn answer(&mut self, steady: &Option<RingReading>) -> Option<Result<Self::Answer, Error>> {
        // An old connection may have ended with its daemon, and a new daemon may be running.
        let is_old = self.maps.is_some();
        let mut read = || self.read(steady.as_ref());
        let read = read().or_else(|failed| if is_old { read() } else { Err(failed) });
        let answer = match read {
            Ok(reading) => {
                self.past.was_watched.store(true, Ordering::Release);
                return self.held.add(reading, steady.as_ref()).map(Ok);
            }
            Err(Failed::Transient(error)) => Err(error),
            // Without a fixed model, libcmap has answered before the actor connected (except with a
            // libquorum before 3.1). So the refusal is treated as temporary.
            Err(Failed::Refused(error))
                if self.past.was_watched.load(Ordering::Acquire) || self.trust.model.is_none() =>
            {
                Err(error)
            }
            Err(Failed::Refused(error)) => Ok(vec![self.unwatched(&error.to_string())]),
            Err(Failed::Unwatchable(why)) => Ok(vec![self.unwatched(&why)]),
        };
        Some(answer)
    }
}

impl Reader {
    /// Returns the update for a ring that cannot be watched. Logs a warning with the reason `why`,
    /// unless the last warning gave the same reason.
    fn unwatched(&self, why: &str) -> RingUpdate {
        let before = self.past.warned.lock().replace(why.to_owned());
        if before.is_none_or(|before| before != why) {
            crate::foreign::log!(log::Level::Warn, "{}", unwatched_warning(why));
        }
        RingUpdate::Unwatched
    }

    /// Makes one read. The connections are kept if it succeeds.
    fn read(&mut self, steady: Option<&RingReading>) -> Result<RingReading, Failed> {
        let mut maps = match self.maps.take() {
            Some(maps) => maps,
            None => {
                *self.connecting_since.lock() = Some(self.clock.now());
                let maps = Maps::connect(self.trust, &self.canceller)?;
                *self.connecting_since.lock() = None;
                let number = self.past.connections.fetch_add(1, Ordering::Relaxed);
                Maps { number, ..maps }
            }
        };
        let now = self.clock.now();
        let short = match steady.filter(|_| now.since(self.full_at) < FULL_READ) {
            Some(steady) => maps.short_read(steady, self.tokens, self.clock)?,
            None => None,
        };
        let (asked_at, counters, tokens) = match short {
            Some(read) => read,
            None => {
                self.full_at = now;
                maps.full_read(self.clock)?
            }
        };
        let has_changed = maps.default.has_changed()?;
        let Configuration { token, consensus, votes } = match maps.configuration {
            Some(known) if !has_changed => known,
            _ => *maps.configuration.insert(maps.read_configuration()?),
        };
        let (connection, age) = (maps.number, maps.keys.age);
        self.maps = Some(maps);
        self.tokens = tokens;
        Ok(RingReading {
            connection,
            asked_at,
            answered_at: self.clock.now(),
            counters,
            tokens,
            token,
            consensus,
            configured_votes: votes,
            age,
        })
    }
}

impl Maps {
    fn connect(trust: TrustPolicy, canceller: &Canceller) -> Result<Self, Failed> {
        let default = Cmap::initialize_tracking(&CONFIGURATION, trust.peer(canceller))?;
        trust.check_server(default.server())?;
        // The request that selects a map kills a daemon of Corosync 2.
        let is_corosync_2 = default.is_corosync_2()?;
        let statistics = if is_corosync_2 {
            None
        } else {
            Some(Cmap::initialize_statistics(trust.peer(canceller))?)
        };
        if let Some(statistics) = &statistics {
            trust.check_server(statistics.server())?;
        }
        let keys = if is_corosync_2 { COROSYNC_2 } else { COROSYNC_3 };
        Ok(Self { number: 0, default, statistics, keys, configuration: None })
    }

    fn counter(&self, key: &'static CStr) -> Result<u64, Failed> {
        match self.statistics.as_ref().unwrap_or(&self.default).get_u64(key)? {
            Some(value) => Ok(value),
            None => Err(Failed::Unwatchable(format!(
                "corosync has no key {}; upgrade corosync",
                key.to_string_lossy()
            ))),
        }
    }

    /// Reads all counters. Returns when they were requested, the counters and the tokens.
    ///
    /// The counter that grows when a ring forms is read before those that grow when a ring ends. So
    /// a read during a ring change shows that the old ring has ended, and the next read shows the
    /// new one. Of the counters of RECOVERY, the one that grows at the beginning of RECOVERY is
    /// read last, so that a recovery is never missed.
    fn full_read(&self, clock: Clock) -> Result<(Moment, RingCounters, u64), Failed> {
        let asked_at = clock.now().before(self.keys.age);
        let operational_entered = self.counter(self.keys.operational_entered)?;
        let gather_entered = self.counter(self.keys.gather_entered)?;
        let token_lost = self.counter(self.keys.token_lost)?;
        let recovery_token_lost = self.counter(self.keys.recovery_token_lost)?;
        let recovery_entered = self.counter(self.keys.recovery_entered)?;
        let counters = RingCounters {
            gather_entered,
            operational_entered,
            token_lost,
            recovery_entered,
            recovery_token_lost,
        };
        Ok((asked_at, counters, self.counter(self.keys.tokens)?))
    }

    /// Reads only the two counters that show whether the ring of a steady reading goes on. Returns
    /// what a full read returns, or `None` if the ring may have changed.
    fn short_read(
        &self,
        steady: &RingReading,
        last_tokens: u64,
        clock: Clock,
    ) -> Result<Option<(Moment, RingCounters, u64)>, Failed> {
        let asked_at = clock.now().before(self.keys.age);
        let gather_entered = self.counter(self.keys.gather_entered)?;
        let tokens = self.counter(self.keys.tokens)?;
        let short = ShortReading { connection: self.number, gather_entered, tokens };
        let goes_on = steady.goes_on(short, last_tokens);
        Ok(goes_on.then_some((asked_at, steady.counters, tokens)))
    }

    fn read_configuration(&self) -> Result<Configuration, Failed> {
        let timeout = |name: &str| match self.default.get_u32(name)? {
            Some(millis) => Ok(Duration::from_millis(millis.into())),
            None => {
                Err(Failed::Unwatchable(format!("corosync has no key {name}; upgrade corosync")))
            }
        };
        Ok(Configuration {
            token: timeout("runtime.config.totem.token")?,
            consensus: timeout("runtime.config.totem.consensus")?,
            votes: self.default.configured_votes()?,
        })
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        match error {
            Error::Load(_) | Error::UntrustedServer { .. } => Self::Unwatchable(error.to_string()),
            Error::Connect(Code::LIBRARY | Code::ACCESS) => Self::Refused(error),
            error => Self::Transient(error),
        }
    }
}
