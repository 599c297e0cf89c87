//! The smallest service. Reading is always allowed; writing requires quorum.
//!
//! ```sh
//! cargo run --example gate                 # a simulated cluster that repeatedly loses quorum
//! cargo run --example gate -- --corosync   # the Corosync of this machine
//!
//! curl -i http://127.0.0.1:8080/value
//! curl -i http://127.0.0.1:8080/value -X PUT -d 42
//! curl http://127.0.0.1:8080/readyz?verbose
//! ```

use std::{env, io, sync::Mutex, time::Duration};

use actix_quorum::{
    QuorumActor, QuorumLost,
    sim::Cluster,
    web::{Quorate, QuorumGate, drop_stalled_clients, routes},
};
use actix_web::{App, HttpResponse, HttpServer, Responder, rt, web};
use tokio::signal::unix::{SignalKind, signal};

type Value = web::Data<Mutex<String>>;

async fn read(value: Value) -> impl Responder {
    value.lock().unwrap().clone() + "\n"
}

/// Called only with quorum. `Quorate` contains a guard, which reports the end of quorum.
async fn write(value: Value, new: String, quorate: Quorate) -> impl Responder {
    // Work that takes long is dropped when quorum is lost; its effects until then remain.
    let work = async { *value.lock().unwrap() = new };
    match quorate.run(work).await {
        Ok(()) => HttpResponse::Ok().body("written\n"),
        Err(QuorumLost) => HttpResponse::ServiceUnavailable().body("may be written\n"),
    }
}

#[actix_web::main]
async fn main() -> io::Result<()> {
    let builder = QuorumActor::builder();
    let quorum = if env::args().any(|argument| argument == "--corosync") {
        builder.start()
    } else {
        let cluster = Cluster::new(3);
        let node = cluster.node(1);
        rt::spawn(lose_and_regain(cluster));
        builder.source(node).start()
    };
    let value: Value = web::Data::new(Mutex::new("nothing yet".to_owned()));
    let (state, stopping) = (quorum.clone(), quorum);
    println!("http://127.0.0.1:8080/value");
    HttpServer::new(move || {
        let gate = QuorumGate::new(state.clone()).allow_safe_methods(true);
        App::new()
            .app_data(value.clone())
            .configure(routes(state.clone()))
            .service(web::resource("/value").wrap(gate).get(read).put(write))
    })
    .on_connect(drop_stalled_clients)
    .shutdown_signal(async move {
        let mut terminated = signal(SignalKind::terminate()).expect("signals are available");
        tokio::select! { _ = terminated.recv() => {}, _ = tokio::signal::ctrl_c() => {} }
        stopping.stop().await;
    })
    .bind(("127.0.0.1", 8080))?
    .run()
    .await
}

/// Alternates between ten seconds with quorum and ten seconds without.
async fn lose_and_regain(cluster: Cluster) {
    loop {
        rt::time::sleep(Duration::from_secs(10)).await;
        cluster.partition(&[&[1], &[2, 3]]).expect("the cluster has these nodes");
        rt::time::sleep(Duration::from_secs(10)).await;
        cluster.heal();
    }
}
