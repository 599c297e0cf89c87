//! Two writers on two nodes, and a file that refuses the writer of an older ring: with a fencing
//! token, quorum becomes a lock.
//!
//! `cargo run --example fencing` runs on a simulated cluster of three nodes. Node 1 has started a
//! write when its packets are lost. The other nodes continue without it, and node 2 writes. The
//! write of node 1 arrives later and is refused.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use actix_quorum::{FencingToken, QuorumActor, QuorumHandle, sim::Cluster};

/// A value in a file, with the largest fencing token of all writes.
///
/// The file stands for storage that all nodes share. Such storage must compare and store the token
/// in the same transaction as the data. Here a lock on another file replaces the transaction.
struct Storage {
    directory: PathBuf,
}

impl Storage {
    fn new(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// Returns the token and the value of the last write.
    fn read(&self) -> io::Result<Option<(FencingToken, String)>> {
        let stored = match fs::read_to_string(self.directory.join("value")) {
            Ok(stored) => stored,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (token, value) = stored.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
        Ok(Some((token.parse().map_err(io::Error::other)?, value.to_owned())))
    }

    /// Writes a value. Refuses the value if the stored token is larger.
    fn write(&self, token: FencingToken, value: &str) -> io::Result<Result<(), FencingToken>> {
        let lock = File::create(self.directory.join("lock"))?;
        lock.lock()?;
        if let Some((largest, _)) = self.read()?
            && token < largest
        {
            return Ok(Err(largest));
        }
        // Renamed, so that a writer that dies during a write leaves the old value.
        let new = self.directory.join("new");
        fs::write(&new, format!("{token} {value}"))?;
        File::open(&new)?.sync_all()?;
        fs::rename(new, self.directory.join("value"))?;
        Ok(Ok(()))
    }
}

/// Waits until a node has a token, and returns it.
async fn token(quorum: &QuorumHandle) -> FencingToken {
    loop {
        if let Some(token) = quorum.guard().and_then(|guard| guard.fencing_token()) {
            return token;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn report(writer: &str, token: FencingToken, written: Result<(), FencingToken>) {
    match written {
        Ok(()) => println!("{writer} with token {token}: written"),
        Err(largest) => {
            println!("{writer} with token {token}: refused, the largest token is {largest}")
        }
    }
}

#[actix::main]
async fn main() -> io::Result<()> {
    let directory = std::env::temp_dir().join(format!("fencing-{}", std::process::id()));
    let storage = Storage::new(&directory)?;
    // Rings end and form with timeouts, a little faster than real ones.
    let cluster = Cluster::new(3).timeouts(Duration::from_millis(300), Duration::from_millis(360));
    let [one, two] = [1, 2].map(|id| QuorumActor::builder().source(cluster.node(id)).start());

    let first = token(&one).await;
    report("node 1", first, storage.write(first, "by node 1")?);

    // Node 1 starts another write, which is delayed.
    cluster.lose_sends(1).map_err(io::Error::other)?;
    let others = two.wait_for(|now| !now.members.contains(&1.into()) && now.settled).await.unwrap();
    println!("node 2: {others}");
    // Node 2 is in a later ring, so its token is larger.
    let second = token(&two).await;
    report("node 2", second, storage.write(second, "by node 2")?);
    // The delayed write of node 1 arrives.
    report("node 1", first, storage.write(first, "by node 1, too late")?);

    let stored = storage.read()?.map(|(_, value)| value);
    println!("stored: {}", stored.as_deref().unwrap_or("nothing"));
    one.stop().await;
    two.stop().await;
    fs::remove_dir_all(directory)
}
