//! How cost grows with the members of the cluster: what the actor's thread takes for a change, with
//! its subscriber on the same arbiter. (The simulated daemon's own work is on another.)

use std::{sync::mpsc, time::Duration};

use actix::{Actor, Context, Handler, System};
use actix_quorum::{QuorumActor, QuorumChanged, sim::Cluster};

use crate::{clock, report::Report, stats::Sample};

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(report: &mut Report) {
    for members in [1, 3, 16, 64, 384] {
        let cluster = Cluster::new(members);
        // What the simulated daemons do grows with their square.
        let flips = if members > 16 { 60 } else { 500 };
        let (tell, told) = mpsc::channel();
        let (give, system) = mpsc::channel();
        let node = cluster.node(1);
        std::thread::spawn(move || {
            let runner = System::new();
            let _quorum = runner.block_on(async {
                let lease = Duration::from_secs(3600);
                let listener = Listener(tell).start().recipient();
                let builder = QuorumActor::builder().lease(lease).source(node).subscribe(listener);
                builder.start_in_arbiter(System::current().arbiter())
            });
            give.send(System::current()).expect("it waits");
            runner.run().expect("it runs");
        });
        let system: System = system.recv().expect("it starts");
        let mut before = told.recv_timeout(PATIENCE).expect("the first state");
        let mut sample = Sample::default();
        for flip in 0..flips {
            let votes = if flip % 2 == 0 { 3 * members } else { members };
            cluster.expected_votes(votes).expect("a number of votes");
            let at = told.recv_timeout(PATIENCE).expect("it is told");
            sample.push((at - before) as f64 / 1e3);
            before = at;
        }
        system.stop();
        let name = format!("CPU of the actor and a subscriber for a change, {members} members");
        report.sample(name, "us", &sample);
    }
}

struct Listener(mpsc::Sender<u64>);

impl Actor for Listener {
    type Context = Context<Self>;
}

impl Handler<QuorumChanged> for Listener {
    type Result = ();

    fn handle(&mut self, change: QuorumChanged, _: &mut Context<Self>) {
        if change.is_gain() || change.is_loss() {
            let _ = self.0.send(clock::thread_time());
        }
    }
}
