//! The live page of node 1 in a simulated cluster of five, with buttons that cause faults.
//!
//! ```sh
//! cargo run --example dashboard                  # then open http://127.0.0.1:8080
//! cargo run --example dashboard -- --port 9000   # 0 for any free port
//! cargo run --example dashboard -- --corosync    # the Corosync of this machine, without buttons
//! ```

use std::{env, process::ExitCode};

use actix_quorum::{
    QuorumActor,
    sim::{Cluster, Error},
    web::{QuorumGate, drop_stalled_clients, routes},
};
use actix_web::{App, HttpResponse, HttpServer, web};
use tokio::signal::unix::{SignalKind, signal};

type Simulated = web::Data<Option<Cluster>>;

/// Handles requests such as `POST /nodes/3/crash`.
async fn node(cluster: Simulated, path: web::Path<(u32, String)>) -> HttpResponse {
    let (node, verb) = path.into_inner();
    simulate(&cluster, |cluster| match verb.as_str() {
        "crash" => cluster.crash(node),
        "start" => cluster.start(node),
        "pause" => cluster.pause(node),
        _ => cluster.resume(node),
    })
}

/// Handles `POST /partition`, whose body lists the groups, for example `1 2 | 3 4 5`.
async fn partition(cluster: Simulated, groups: String) -> HttpResponse {
    let ids = |group: &str| group.split_whitespace().map(str::parse).collect();
    let groups: Result<Vec<Vec<u32>>, _> = groups.split('|').map(ids).collect();
    let Ok(groups) = groups else {
        return HttpResponse::BadRequest().body("write node ids, with | between the groups");
    };
    let groups: Vec<&[u32]> = groups.iter().map(Vec::as_slice).collect();
    simulate(&cluster, |cluster| cluster.partition(&groups))
}

/// Handles `POST /heal`.
async fn heal(cluster: Simulated) -> HttpResponse {
    simulate(&cluster, |cluster| {
        cluster.heal();
        Ok(())
    })
}

fn simulate(
    cluster: &Option<Cluster>,
    verb: impl FnOnce(&Cluster) -> Result<(), Error>,
) -> HttpResponse {
    match cluster.as_ref().map(verb) {
        Some(Ok(())) => HttpResponse::NoContent().finish(),
        Some(Err(error)) => HttpResponse::Conflict().body(error.to_string()),
        None => HttpResponse::NotFound().body("the cluster is not simulated"),
    }
}

/// Handles `GET /nodes`: returns the nodes that have buttons.
async fn nodes(cluster: Simulated) -> HttpResponse {
    let nodes = cluster.as_ref().as_ref().map_or_else(Vec::new, Cluster::nodes);
    HttpResponse::Ok().json(nodes.iter().map(|node| node.0).collect::<Vec<_>>())
}

fn file(kind: &'static str, text: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(kind)
        .insert_header(("Cache-Control", "no-store"))
        .insert_header(("X-Content-Type-Options", "nosniff"))
        .insert_header(("Content-Security-Policy", POLICY))
        .body(text)
}

/// The page may load only resources of this server.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    frame-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn dashboard(config: &mut web::ServiceConfig) {
    config
        .route("/", web::get().to(async || file("text/html", include_str!("dashboard/page.html"))))
        .route(
            "/page.js",
            web::get().to(async || file("text/javascript", include_str!("dashboard/page.js"))),
        )
        .route(
            "/page.css",
            web::get().to(async || file("text/css", include_str!("dashboard/page.css"))),
        )
        .route("/nodes", web::get().to(nodes))
        .route("/nodes/{node}/{verb:crash|start|pause|resume}", web::post().to(node))
        .route("/partition", web::post().to(partition))
        .route("/heal", web::post().to(heal));
}

async fn run(corosync: bool, port: u16) -> std::io::Result<()> {
    let builder = QuorumActor::builder();
    let (cluster, quorum) = if corosync {
        (None, builder.start())
    } else {
        let cluster = Cluster::new(5);
        let node = cluster.node(1);
        (Some(cluster), builder.source(node).start())
    };
    let cluster = web::Data::new(cluster);
    let (state, stopping) = (quorum.clone(), quorum);
    let server = HttpServer::new(move || {
        let write = web::resource("/write").wrap(QuorumGate::new(state.clone()));
        App::new()
            .app_data(cluster.clone())
            .configure(routes(state.clone()))
            .configure(dashboard)
            .service(write.post(async || "written"))
    })
    .workers(2)
    .on_connect(drop_stalled_clients)
    .shutdown_signal(async move {
        // Replaces the signal handling of the server.
        let mut terminated = signal(SignalKind::terminate()).expect("signals are available");
        tokio::select! { _ = terminated.recv() => {}, _ = tokio::signal::ctrl_c() => {} }
        stopping.stop().await;
    })
    .bind(("127.0.0.1", port))?;
    println!("http://{}", server.addrs()[0]);
    server.run().await
}

/// Returns whether to use the real Corosync, and the port, or `None` if the arguments are wrong.
fn options() -> Option<(bool, u16)> {
    let (mut corosync, mut port) = (false, 8080);
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--corosync" => corosync = true,
            "--port" => port = arguments.next()?.parse().ok()?,
            _ => return None,
        }
    }
    Some((corosync, port))
}

#[actix_web::main]
async fn main() -> ExitCode {
    let Some((corosync, port)) = options() else {
        eprintln!("usage: dashboard [--corosync] [--port PORT]");
        return ExitCode::from(2);
    };
    match run(corosync, port).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot serve on 127.0.0.1:{port}: {error}; choose another port with --port");
            ExitCode::FAILURE
        }
    }
}
