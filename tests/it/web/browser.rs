//! The live page and the dashboard in a real browser.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    process::Command,
    time::{Duration, Instant},
};

use actix_quorum::{Connection, Quorum, QuorumActor, sim::Cluster, web::routes};
use actix_web::{
    HttpResponse,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::header::{CONTENT_SECURITY_POLICY, HeaderValue},
    middleware::{Next, from_fn},
    web::{self, Bytes, ServiceConfig},
};
use futures_util::{StreamExt, stream};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{
    Browser, Client, Running, Service, Setup, eventually, example, hold, pause_process,
};

/// The live page in a browser.
struct Live {
    browser: Browser,
    /// The address of its service.
    server: String,
}

impl Live {
    #[track_caller]
    fn of(service: &Service) -> Self {
        Self::open(Browser::start(), format!("http://{}", service.server))
    }

    #[track_caller]
    fn open(browser: Browser, server: String) -> Self {
        // Records everything that is ever shown, from the start.
        let source = "
            window.shown = [];
            addEventListener('DOMContentLoaded', () => {
                const note = () => shown.push(
                    document.getElementById('word').textContent,
                    document.getElementById('state').className, document.title);
                note();
                const all = { attributes: true, characterData: true, childList: true, subtree: true };
                new MutationObserver(note).observe(document.documentElement, all);
            });";
        browser.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": source }));
        browser.open(&format!("{server}/quorum/live"));
        Self { browser, server }
    }

    #[track_caller]
    fn text(&self, id: &str) -> String {
        let text = self.browser.run(&format!("return document.getElementById('{id}').innerText"));
        text.as_str().expect("the page has this element").to_owned()
    }

    /// Waits until the page shows this state, as a word, as a colour and in the title.
    #[track_caller]
    fn shows(&self, word: &str) {
        let class = match word {
            "Quorate" => "card quorate",
            "No quorum" => "card inquorate",
            _ => "card unknown",
        };
        let stale = !["Quorate", "No quorum", "Unknown"].contains(&word);
        let mut last = Value::Null;
        let shown = || {
            last = self.browser.run(
                "return [document.getElementById('word').textContent,
                    document.getElementById('state').className,
                    document.title.split(' – ')[0], document.body.className === 'stale']",
            );
            (last == json!([word, class, word, stale])).then_some(())
        };
        eventually(&format!("the page shows {word}"), shown);
    }

    /// Waits until the text of this element contains this text.
    #[track_caller]
    fn contains_text(&self, id: &str, text: &str) {
        eventually(&format!("{id} contains {text:?}"), || {
            self.text(id).contains(text).then_some(())
        });
    }

    /// Waits until the page has received nothing for this long, and shows how long.
    #[track_caller]
    fn stays_silent(&self, time: Duration) {
        let script = format!("return Date.now() - receivedAt > {}", time.as_millis());
        eventually(&format!("the page has received nothing for {time:?}"), || {
            (self.browser.run(&script) == true).then_some(())
        });
        self.shows("No data");
        self.contains_text("since", "The last message arrived ");
        self.contains_text("since", " ago.");
    }

    /// Forgets what was shown so far.
    fn forget(&self) {
        self.browser.run("shown.length = 0");
    }

    /// Panics if quorum was shown at any time since the last `forget`.
    #[track_caller]
    fn never_showed_quorum(&self) {
        let shown = self.browser.run("return shown.filter((text) => /quorate/i.test(text))");
        let shown: Vec<String> = serde_json::from_value(shown).unwrap();
        let quorate = |shown: &&String| !shown.contains("inquorate");
        assert_eq!(shown.iter().find(quorate), None, "quorum was shown");
    }

    /// Panics if the page reported an error, or sent a request to another server.
    #[track_caller]
    fn was_well(&self) {
        assert_eq!(self.browser.complaints(), [] as [String; 0]);
        for url in self.browser.requests() {
            let own = url
                .strip_prefix(&self.server)
                .unwrap_or_else(|| panic!("the page requested {url}"));
            let known = ["/quorum/live", "/quorum/events", "/quorum/history?last=50"];
            assert!(known.contains(&own), "the page requested {url}");
        }
    }
}

#[test]
#[ignore = "needs chromium: make test"]
fn the_page_shows_a_loss_and_a_gain_of_quorum() {
    let service = Service::start();
    let live = Live::of(&service);
    live.shows("Quorate");
    live.contains_text("title", "Quorum of n1");
    live.contains_text("why", "3 members.");
    live.contains_text("members", "n1 (this node)\t1\t1\nn2\t2\t1\nn3\t3\t1");
    live.contains_text("votes", "3 of 3 expected, 2 required for quorum");
    live.contains_text("margin", "1 vote");
    live.contains_text("ring", "1.5");
    live.contains_text("connection", "connected");
    live.contains_text("since", "Since ");

    service.lose();
    live.shows("No quorum");
    live.contains_text("why", "1 member.");
    live.contains_text("members", "n1 (this node)\t1\t1\nn2\t2\tnot a member\nn3\t3\tnot a member");
    live.contains_text("margin", "none");
    live.contains_text("timeline", "inquorate: ring 1.9, members 1 (was quorate)");
    live.forget();
    live.contains_text("votes", "1 of 3 expected");
    live.contains_text("why", "1 of 3 votes, 2 required. 1 member.");
    live.never_showed_quorum();

    service.regain();
    live.shows("Quorate");
    service.cluster.crash(1).unwrap();
    live.shows("Unknown");
    live.contains_text("connection", "CS_ERR_LIBRARY");
    live.contains_text("members-title", "Members, as last received");
    service.cluster.start(1).unwrap();
    live.shows("Quorate");
    live.was_well();
}

/// Returns the dashboard's process, and the address that it prints.
fn dashboard(arguments: &str) -> (Running, String) {
    let mut dashboard = Running::example(None, "dashboard", arguments);
    let url = dashboard.until("http://");
    (dashboard, url)
}

/// Returns the status and the body of the answer to a request.
#[track_caller]
fn post(url: &str, path: &str, body: &str) -> (u16, String) {
    let server = url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut client = Client::connect(server);
    client.send_body("POST", path, &[], body);
    client.response()
}

fn signal(dashboard: &Running, signal: Signal) {
    kill_process(Pid::from_child(&dashboard.child), signal).unwrap();
}

#[test]
#[ignore = "needs chromium: make test"]
fn the_page_shows_no_data_from_the_death_of_its_service_until_the_next_service_starts() {
    let (mut first, url) = dashboard("--port 0");
    let live = Live::open(Browser::start(), url.clone());
    live.shows("Quorate");
    for _ in 0..10 {
        assert_eq!(post(&url, "/partition", "1 | 2 3 4 5").0, 204);
        live.shows("No quorum");
        assert_eq!(post(&url, "/heal", "").0, 204);
        live.shows("Quorate");
    }
    let last_sequence = live.browser.run("return state.sequence").as_u64().unwrap();
    signal(&first, Signal::KILL);
    first.child.wait().unwrap();
    live.shows("No data");
    live.forget();
    live.stays_silent(Duration::from_secs(3));
    live.contains_text("members-title", "Members, as last received");
    live.never_showed_quorum();
    let requests = live.browser.requests();
    assert!(requests.len() > 3, "the page reconnects: {requests:?}");

    let (_second, _) = dashboard(&format!("--port {}", url.rsplit(':').next().unwrap()));
    live.shows("Quorate");
    assert!(live.browser.run("return state.sequence").as_u64().unwrap() < last_sequence);
    live.contains_text("members-title", "Members");
    eventually("the changes of the first service are gone", || {
        let sequences = live.browser.run("return [...changes.keys()]");
        let sequences: Vec<u64> = serde_json::from_value(sequences).unwrap();
        (!sequences.is_empty() && sequences.iter().all(|one| *one < last_sequence)).then_some(())
    });
}

/// If the pages beyond the limit of streams reconnected immediately, they would keep the service
/// busy.
#[test]
#[ignore = "needs chromium: make test"]
fn a_page_whose_stream_is_refused_waits_before_it_reconnects() {
    fn full(config: &mut ServiceConfig) {
        let events = async || {
            let event = "event: full\nretry: 10000\ndata: {}\n\n";
            HttpResponse::Ok().content_type("text/event-stream").body(event)
        };
        config.route("/quorum/events", web::get().to(events));
    }
    let service = Service::start_with(Setup { instead: full, ..Setup::default() });
    let live = Live::of(&service);
    let requested = "return performance.getEntriesByType('resource')
        .filter(({ name }) => name.endsWith('/events')).map(({ startTime }) => startTime)";
    let first = eventually("the page reconnects", || {
        let requested: Vec<f64> = serde_json::from_value(live.browser.run(requested)).unwrap();
        (requested.len() > 1).then(|| requested[1] - requested[0])
    });
    assert!(first >= 10_000.0, "the page reconnected after {first} ms");
    live.shows("Connecting");
}

/// A stream that is resumed first sends the changes that happened in the meantime. The page must
/// not show any of them as the current state.
#[test]
#[ignore = "needs chromium: make test"]
fn a_page_that_was_offline_shows_the_current_state() {
    let (first, url) = dashboard("--port 0");
    let live = Live::open(Browser::start(), url.clone());
    live.shows("Quorate");
    drop(first);
    live.shows("No data");
    let cut_off = |offline: bool| {
        let conditions = json!({
            "offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1,
        });
        live.browser.devtools("Network.emulateNetworkConditions", conditions);
    };
    cut_off(true);
    // The changes of the second service have the same numbers as those of the first service, and
    // then higher ones.
    let (_second, _) = dashboard(&format!("--port {}", url.rsplit(':').next().unwrap()));
    for flip in 0..21 {
        let (verb, groups, status) =
            [("/partition", "1 | 2 3 4 5", 503), ("/heal", "", 200)][flip % 2];
        assert_eq!(post(&url, verb, groups).0, 204);
        eventually(verb, || (post(&url, "/write", "").0 == status).then_some(()));
    }
    live.forget();
    cut_off(false);
    live.shows("No quorum");
    live.never_showed_quorum();
}

#[test]
#[ignore = "needs chromium: make test"]
fn a_silent_service_is_shown_as_no_data() {
    let (service, url) = dashboard("--port 0");
    let live = Live::open(Browser::start(), url);
    live.shows("Quorate");
    pause_process(service.child.id());
    live.shows("No data");
    live.forget();
    // The page tries again and again, and receives no answer.
    live.stays_silent(Duration::from_secs(20));
    live.never_showed_quorum();
    signal(&service, Signal::CONT);
    live.shows("Quorate");
    live.was_well();
}

#[test]
#[ignore = "needs chromium: make test"]
fn a_stuck_actor_is_believed_for_at_most_the_lease() {
    let (service, arbiter) = Service::on_arbiter(Duration::from_secs(3));
    let live = Live::of(&service);
    live.shows("Quorate");
    let held = hold(&arbiter);
    live.shows("Unknown");
    let now = service.quorum.snapshot();
    assert_eq!(now.connection, Connection::Connected, "the actor was unable to publish anything");
    assert_eq!(now.quorum, Quorum::Unknown);
    live.contains_text("why", "The last report of Corosync has expired.");
    live.contains_text("margin", "–");

    let live = Live::open(live.browser, live.server);
    live.shows("Unknown");
    live.never_showed_quorum();
    drop(held);
    live.shows("Quorate");
    live.was_well();
}

/// While a computer is asleep, one of the page's two clocks may stop, and the other one continues.
#[test]
#[ignore = "needs chromium: make test"]
fn events_that_waited_while_the_computer_was_asleep_are_not_believed() {
    let service = Service::start();
    let live = Live::of(&service);
    for clock in ["Date", "performance"] {
        live.shows("Quorate");
        let word = live.browser.run(&format!(
            "const now = {clock}.now.bind({clock});
            {clock}.now = () => now() + 3600000;
            const data = '{{ \"quorum\": \"quorate\", \"names\": {{}} }}';
            source.dispatchEvent(new MessageEvent('alive', {{ data }}));
            return document.getElementById('word').textContent"
        ));
        assert_eq!(word, "No data", "after a jump of {clock}");
    }
    live.shows("Quorate");
    live.was_well();
}

/// Names, a ring and changes that contain markup or are long; 20 nodes and 60 changes.
fn hostile(config: &mut ServiceConfig) {
    let past = |sequence: u32| {
        let quorum = ["quorate", "inquorate", "unknown", "<b>"][(sequence % 4) as usize];
        json!({
            "sequence": sequence, "changed_at": "2020-01-01T00:00:00Z", "quorum": quorum,
            "text": hostile_name(sequence),
        })
    };
    let members: Vec<u32> = (1..=20).collect();
    let names: BTreeMap<u32, String> = members.iter().map(|id| (*id, hostile_name(*id))).collect();
    let votes: BTreeMap<u32, u32> = members.iter().map(|id| (*id, 1)).collect();
    let change = json!({
        "cause": "subscribed", "text": "", "joined": [], "left": [], "missed": 0, "is_loss": false,
        "current": {
            "quorum": "quorate", "ring_id": hostile_name(1), "members": members, "names": names,
            "connection": { "state": hostile_name(1), "error": hostile_name(2) },
            "settled": true, "epoch": u64::MAX, "local": 1, "sequence": 60,
            "votes": {
                "expected": 20, "highest_expected": 20, "total": 20, "quorum": 11, "qdevice": 0,
                "margin": 9, "members": votes, "flags": [],
            },
            "changed_at": "2020-01-01T00:00:00Z",
        },
    });
    let event = Bytes::from(format!("event: changed\ndata: {change}\n\n"));
    let history = json!({ "changes": (1..=60).map(past).collect::<Vec<_>>() });
    config
        .route(
            "/quorum/events",
            web::get().to(move || {
                let event = Ok::<_, actix_web::Error>(event.clone());
                let events = stream::iter([event]).chain(stream::pending());
                async { HttpResponse::Ok().content_type("text/event-stream").streaming(events) }
            }),
        )
        .route(
            "/quorum/history",
            web::get().to(move || {
                let history = HttpResponse::Ok().json(&history);
                async { history }
            }),
        );
}

fn hostile_name(id: u32) -> String {
    match id % 3 {
        0 => format!("{id}<img src=x onerror=\"hurt = 1\">"),
        1 => format!("{id}</td></script><script>hurt = 1</script>&amp;'\"`"),
        _ => format!("{id}{}", "averylongname".repeat(10)),
    }
}

#[test]
#[ignore = "needs chromium: make test"]
fn all_values_are_shown_as_text() {
    let service = Service::start_with(Setup { instead: hostile, ..Setup::default() });
    let live = Live::of(&service);
    live.shows("Quorate");
    live.contains_text("title", &format!("Quorum of {}", hostile_name(1)));
    live.contains_text("connection", &format!("{}: {}", hostile_name(1), hostile_name(2)));
    for id in 1..=20 {
        live.contains_text("members", &hostile_name(id));
    }
    eventually("the page shows the last 50 changes", || {
        let shown = live.browser.run("return document.querySelectorAll('#timeline li').length");
        (shown == 50).then_some(())
    });
    for sequence in 11..=60 {
        live.contains_text("timeline", &hostile_name(sequence));
    }
    let made = live.browser.run(
        "return [typeof hurt, document.querySelectorAll('img').length,
            document.querySelectorAll('script').length, document.querySelectorAll('b').length]",
    );
    assert_eq!(made, json!(["undefined", 0, 1, 0]), "no value was interpreted as markup");
    live.was_well();
}

/// The elements that extend beyond the right edge of the screen.
const TOO_WIDE: &str = "
    const beyond = [...document.querySelectorAll('body, body *')]
        .filter((one) => one.getBoundingClientRect().right > innerWidth + .5)
        .map((one) => one.outerHTML.slice(0, 200));
    if (document.documentElement.scrollWidth > innerWidth) beyond.push('the page scrolls');
    return beyond";

#[test]
#[ignore = "needs chromium: make test"]
fn a_narrow_screen_shows_the_whole_page() {
    let service = Service::start_with(Setup { instead: hostile, ..Setup::default() });
    let live = Live::of(&service);
    live.shows("Quorate");
    live.contains_text("timeline", &hostile_name(60));
    for width in [320, 412, 640, 1280] {
        live.browser.screen(width, 640);
        assert_eq!(live.browser.run("return innerWidth"), width);
        assert_eq!(live.browser.run(TOO_WIDE), json!([]), "at {width} px");
        let place = live.browser.run(
            "const { top, bottom } = document.getElementById('word').getBoundingClientRect();
            return top >= 0 && bottom <= innerHeight",
        );
        assert_eq!(place, true, "the state is visible without scrolling");
    }
}

/// The texts whose contrast, in the colours that are shown, is below 4.5 (WCAG 2, AA).
const TOO_FAINT: &str = "
    const linear = (c) => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
    const colour = (text) => text.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
    const behind = (one) => {
        const { backgroundColor, backgroundImage } = getComputedStyle(one);
        const stripes = backgroundImage.match(/rgba?\\([^)]*\\)/g);
        if (stripes) return stripes;
        return colour(backgroundColor)[3] === 0 ? behind(one.parentElement) : [backgroundColor];
    };
    const contrast = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const faint = [];
    let texts = 0;
    const walker = document.createTreeWalker(document.querySelector('body'), NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const one = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || !one.checkVisibility() || one.closest('script, noscript')) continue;
        texts++;
        for (let up = one; up; up = up.parentElement) {
            if (getComputedStyle(up).opacity !== '1') faint.push('not opaque: ' + up.outerHTML);
        }
        const text = luminance(colour(getComputedStyle(one).color));
        for (const back of behind(one)) {
            const has = contrast(text, luminance(colour(back)));
            if (has < 4.5) faint.push(has + ': ' + one.outerHTML);
        }
    }
    return texts > 20 ? faint : ['only ' + texts + ' texts']";

#[test]
#[ignore = "needs chromium: make test"]
fn the_page_is_readable_in_each_state_and_colour_scheme() {
    let (service, url) = dashboard("--port 0");
    let live = Live::open(Browser::start(), url.clone());
    let mut seen = BTreeMap::new();
    let mut reads = |word: &str| {
        live.shows(word);
        for scheme in ["light", "dark"] {
            live.browser
                .media(&[("prefers-color-scheme", scheme), ("prefers-reduced-motion", "reduce")]);
            let moves = live.browser.run(
                "return [...document.querySelectorAll('*')].some((one) => {
                    const { transitionDuration, animationName } = getComputedStyle(one);
                    return transitionDuration !== '0s' || animationName !== 'none'; })",
            );
            assert_eq!(moves, false, "no element has a transition or an animation");
            assert_eq!(live.browser.run(TOO_FAINT), json!([]), "{word}, {scheme}");
            let look = live.browser.run(
                "const { backgroundColor, backgroundImage, borderStyle, color } =
                    getComputedStyle(document.getElementById('state'));
                return [backgroundColor, backgroundImage, borderStyle, color].join()",
            );
            let before = seen.insert(look.to_string(), (word.to_owned(), scheme));
            assert_eq!(before, None, "each state looks different: {word}, {scheme}");
        }
    };
    reads("Quorate");
    assert_eq!(post(&url, "/partition", "1 | 2 3 4 5").0, 204);
    reads("No quorum");
    assert_eq!(post(&url, "/nodes/1/crash", "").0, 204);
    reads("Unknown");
    signal(&service, Signal::KILL);
    reads("No data");
    live.browser.media(&[("prefers-reduced-motion", "no-preference")]);
    let moves = "return getComputedStyle(document.getElementById('state')).transitionDuration";
    assert_ne!(
        live.browser.run(moves),
        "0s",
        "the page is animated unless the user asks for reduced motion"
    );
}

#[test]
#[ignore = "needs chromium: make test"]
fn the_keyboard_and_a_screen_reader_reach_the_whole_page() {
    let service = Service::start();
    let live = Live::of(&service);
    live.shows("Quorate");
    let focused: Vec<String> = (0..5)
        .map(|_| {
            for kind in ["rawKeyDown", "keyUp"] {
                let key = json!({
                    "type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9,
                });
                live.browser.devtools("Input.dispatchKeyEvent", key);
            }
            let focused = live.browser.run(
                "const one = document.activeElement, { outlineStyle } = getComputedStyle(one);
                return outlineStyle + ' ' + (one.getAttribute('aria-labelledby') || one.textContent)",
            );
            focused.as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(
        focused,
        [
            "solid members-title",
            "solid timeline-title",
            "solid current state",
            "solid history",
            "solid readyz"
        ]
    );

    let tree = live.browser.devtools("Accessibility.getFullAXTree", json!({}));
    let named = |role: &str| -> Vec<&str> {
        let nodes = tree["nodes"].as_array().unwrap().iter();
        let nodes = nodes.filter(|node| node["role"]["value"] == role && node["ignored"] == false);
        nodes.map(|node| node["name"]["value"].as_str().unwrap_or_default()).collect()
    };
    assert_eq!(named("region"), ["Quorum of n1", "Members", "Cluster", "Changes"]);
    assert_eq!(named("columnheader"), ["Node", "Id", "Votes"]);
    assert_eq!(named("alert").len(), 1);
    let alert = "return document.querySelector('[role=alert]').innerText";
    assert_eq!(live.browser.run(alert), "Quorate\n\n3 members.");
    // The alert does not contain the time that has passed: a screen reader would announce it every
    // second.
    assert_eq!(live.browser.run("return !document.querySelector('[role=alert] time')"), true);
}

#[test]
#[ignore = "needs chromium: make test"]
fn the_content_security_policy_blocks_other_origins_and_html_strings() {
    let service = Service::start();
    let live = Live::of(&service);
    live.shows("Quorate");
    let blocked = live.browser.run(
        "const blocked = new Set(), elsewhere = 'http://localhost:1/';
        return new Promise((done) => {
            addEventListener('securitypolicyviolation', ({ effectiveDirective }) => {
                blocked.add(effectiveDirective);
                if (blocked.size === 5) done([...blocked].sort());
            });
            const add = (tag, has) =>
                document.body.append(Object.assign(document.createElement(tag), has));
            new Image().src = elsewhere;
            add('link', { rel: 'stylesheet', href: elsewhere });
            add('iframe', { src: elsewhere });
            fetch(elsewhere).catch(() => {});
            try { document.body.innerHTML = '<b>'; } catch {}
        })",
    );
    let directives =
        ["connect-src", "frame-src", "img-src", "require-trusted-types-for", "style-src-elem"];
    assert_eq!(blocked, json!(directives));
}

/// A proxy may add its own Content-Security-Policy to each response. The policy in this test blocks
/// the script.
#[test]
#[ignore = "needs chromium: make test"]
fn a_page_without_its_script_shows_a_message() {
    fn strict(config: &mut ServiceConfig) {
        async fn add(
            request: ServiceRequest,
            next: Next<impl MessageBody>,
        ) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
            let mut response = next.call(request).await?;
            let policy = HeaderValue::from_static("default-src 'self'");
            response.headers_mut().append(CONTENT_SECURITY_POLICY, policy);
            Ok(response)
        }
        let quorum = QuorumActor::builder().source(Cluster::new(1).node(1)).start();
        config.service(web::scope("/strict").wrap(from_fn(add)).configure(routes(quorum)));
    }
    let service = Service::start_with(Setup { instead: strict, ..Setup::default() });
    let browser = Browser::start();
    browser.open(&format!("http://{}/strict/quorum/live", service.server));
    let text = browser.run("return document.body.innerText").as_str().unwrap().to_owned();
    assert!(text.contains("Content-Security-Policy"), "{text}");
    assert!(!text.contains("Connecting"), "{text}");
    assert_ne!(browser.run("return document.title"), "Connecting – Quorum");
}

#[test]
#[ignore = "needs chromium: make test"]
fn the_page_works_with_a_trailing_slash() {
    let service = Service::start();
    let live = Live::of(&service);
    live.browser.open(&format!("http://{}/quorum/live/", service.server));
    live.shows("Quorate");
    let links = "return [...document.querySelectorAll('a')].map((a) => new URL(a.href).pathname)";
    let links = live.browser.run(links);
    assert_eq!(links, json!(["/quorum", "/quorum/history", "/readyz"]));
}

/// The dashboard, with the live page in it.
struct Dashboard {
    browser: Browser,
}

impl Dashboard {
    #[track_caller]
    fn press(&self, button: &str) {
        self.browser.click(&format!("[aria-label='{button}']"));
    }

    #[track_caller]
    fn part(&self, groups: &str) {
        self.browser.fill("#groups", groups);
        self.browser.click("#partition button");
    }

    #[track_caller]
    fn contains_text(&self, id: &str, text: &str) {
        self.until(text, &format!("return document.getElementById('{id}').innerText"));
    }

    #[track_caller]
    fn live(&self, word: &str) {
        let script = "const live = document.querySelector('iframe').contentDocument;
            return live.getElementById('word')?.textContent";
        self.until(word, script);
    }

    #[track_caller]
    fn until(&self, text: &str, script: &str) {
        let mut last = Value::Null;
        let contains = || {
            last = self.browser.run(script);
            last.as_str()?.contains(text).then_some(())
        };
        eventually(text, contains);
    }
}

#[test]
#[ignore = "needs chromium: make test"]
fn the_buttons_of_the_dashboard_work() {
    let (mut process, url) = dashboard("--port 0");
    let dashboard = Dashboard { browser: Browser::start() };
    dashboard.browser.open(&url);
    dashboard.live("Quorate");
    dashboard.contains_text("written", "200: written");
    dashboard.press("Crash node 3");
    dashboard.contains_text("done", "Crash node 3: done.");
    dashboard.press("Crash node 3");
    dashboard.contains_text("done", "Crash node 3: node 3 is down: start it first.");
    dashboard.part("1 | 2 3");
    dashboard.contains_text("done", "Partition: node 4 is in no group");
    dashboard.part("1 x");
    dashboard.contains_text("done", "Partition: write node ids");
    dashboard.live("Quorate");

    dashboard.part("1 2 3 | 4 5");
    dashboard.live("No quorum");
    dashboard.contains_text("written", "503: this node has no quorum");
    dashboard.press("Start node 3");
    dashboard.live("Quorate");
    dashboard.contains_text("written", "200: written");
    dashboard.browser.click("#heal");
    dashboard.contains_text("done", "Heal: done.");
    dashboard.press("Pause node 1");
    dashboard.live("Unknown");
    dashboard.contains_text("written", "503: there is no recent answer from the cluster");
    dashboard.browser.click("#again");
    dashboard.press("Resume node 1");
    dashboard.live("Quorate");
    dashboard.contains_text("written", "503");
    dashboard.browser.click("#write");
    dashboard.contains_text("written", "200: written");

    for complaint in dashboard.browser.complaints() {
        let refused = ["/write - ", "/partition - ", "/nodes/3/crash - "];
        let refused = refused.iter().any(|path| complaint.starts_with(&format!("{url}{path}")));
        assert!(refused, "the page reported {complaint}");
    }
    for request in dashboard.browser.requests() {
        assert!(request.starts_with(&url), "the page requested {request}");
    }
    dashboard.browser.screen(320, 640);
    assert_eq!(dashboard.browser.run(TOO_WIDE), json!([]));

    signal(&process, Signal::INT);
    let since = Instant::now();
    assert!(process.child.wait().unwrap().success());
    let elapsed = since.elapsed();
    assert!(elapsed < Duration::from_secs(10), "the dashboard ended after {elapsed:?}");
    dashboard.live("No data");
}

#[test]
#[ignore = "needs chromium: make test"]
fn the_dashboard_of_a_real_node_has_no_buttons() {
    let (_process, url) = dashboard("--corosync --port 0");
    let browser = Browser::start();
    browser.open(&url);
    eventually("the dashboard tries to write", || {
        let written = "return document.getElementById('written').textContent !== 'Not tried yet.'";
        (browser.run(written) == true).then_some(())
    });
    assert_eq!(
        browser.run("return document.getElementById('simulation').checkVisibility()"),
        false
    );
    assert_eq!(post(&url, "/heal", "").0, 404);
}

#[test]
fn the_dashboard_prints_why_it_cannot_start() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let run = |arguments: &[&str]| {
        let output = Command::new(example("dashboard")).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for wrong in [&["--prot"][..], &["--port"], &["--port", "70000"], &["8080"]] {
        let (status, message) = run(wrong);
        assert_eq!(
            (status, message.trim()),
            (Some(2), "usage: dashboard [--corosync] [--port PORT]")
        );
    }
    let (status, message) = run(&["--port", &port]);
    let expected = format!("cannot serve on 127.0.0.1:{port}: Address already in use");
    assert!(status == Some(1) && message.starts_with(&expected), "{message}");
}
