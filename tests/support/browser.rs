//! A headless Chromium, driven over WebDriver.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    os::unix::process::CommandExt,
    process::{Child, ChildStdout, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde_json::{Value, json};

use super::{Client, TempDir};

/// A browser with its own profile. The browser and its driver run in a process namespace, and all
/// of their processes end with it.
#[derive(Debug)]
pub struct Browser {
    unshare: Child,
    /// The driver's output, which is not used but must be readable.
    _prints: BufReader<ChildStdout>,
    driver: SocketAddr,
    session: String,
    _home: TempDir,
}

impl Browser {
    #[track_caller]
    pub fn start() -> Self {
        let home = TempDir::new();
        // The driver exits if its port for IPv4 is in use for IPv6.
        let driver = (0..10).find_map(|_| start_driver(&home));
        let (unshare, prints, port) =
            driver.expect("chromedriver starts: apt-get install chromium chromium-driver");
        let mut browser = Self {
            unshare,
            _prints: prints,
            driver: ([127, 0, 0, 1], port).into(),
            session: String::new(),
            _home: home,
        };
        let profile = browser._home.path().join("profile");
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!("--user-data-dir={}", profile.display()),
        ];
        let session = browser.ask(
            "/session",
            &json!({ "capabilities": { "alwaysMatch": {
                "goog:chromeOptions": { "args": arguments },
                "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
            } } }),
        );
        let id = session["sessionId"].as_str().expect("a session has an id");
        browser.session = format!("/session/{id}");
        // Replaces the browser's own first page.
        browser.open("about:blank");
        browser.requests();
        browser
    }

    /// Opens a page and returns when it is loaded.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.post("url", &json!({ "url": url }));
    }

    /// Runs the body of a function in the page and returns what it returns.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Clicks on the middle of an element, which must not be covered.
    #[track_caller]
    pub fn click(&self, css: &str) {
        let element = self.element(css);
        self.post(&format!("element/{element}/click"), &json!({}));
    }

    /// Types into a field and replaces its content.
    #[track_caller]
    pub fn fill(&self, css: &str, text: &str) {
        let element = self.element(css);
        self.post(&format!("element/{element}/clear"), &json!({}));
        self.post(&format!("element/{element}/value"), &json!({ "text": text }));
    }

    #[track_caller]
    fn element(&self, css: &str) -> String {
        let found = self.post("element", &json!({ "using": "css selector", "value": css }));
        let id = found.as_object().and_then(|found| found.values().next()?.as_str());
        id.expect("an element has an id").to_owned()
    }

    /// Sends a command of the DevTools protocol.
    #[track_caller]
    pub fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// Makes pages look as on a screen of this size.
    #[track_caller]
    pub fn screen(&self, width: u32, height: u32) {
        let screen =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", screen);
    }

    /// Makes pages see these media features, such as `prefers-color-scheme`.
    #[track_caller]
    pub fn media(&self, features: &[(&str, &str)]) {
        let features: Vec<_> =
            features.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Returns the errors of pages since the last call: script errors, refused loads and error
    /// responses.
    #[track_caller]
    pub fn complaints(&self) -> Vec<String> {
        let text = |entry: &Value| entry["message"].as_str().unwrap_or_default().to_owned();
        let is_bad = |entry: &&Value| entry["level"] != "INFO" && entry["level"] != "DEBUG";
        self.log("browser").iter().filter(is_bad).map(text).collect()
    }

    /// Returns the requests of pages since the last call.
    #[track_caller]
    pub fn requests(&self) -> Vec<String> {
        let url = |entry: &Value| {
            let message: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let message = &message["message"];
            let asks = message["method"] == "Network.requestWillBeSent";
            asks.then(|| message["params"]["request"]["url"].as_str().map(str::to_owned))?
        };
        self.log("performance").iter().filter_map(url).collect()
    }

    #[track_caller]
    fn log(&self, of: &str) -> Vec<Value> {
        serde_json::from_value(self.post("se/log", &json!({ "type": of })))
            .expect("the log is a list")
    }

    #[track_caller]
    fn post(&self, command: &str, parameters: &Value) -> Value {
        self.ask(&format!("{}/{command}", self.session), parameters)
    }

    #[track_caller]
    fn ask(&self, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut client = Client::connect(self.driver);
        client.send_body("POST", path, &["Content-Type: application/json"], &body);
        let (status, answer) = client.response();
        let mut answer: Value = serde_json::from_str(&answer).expect("the driver answers JSON");
        assert_eq!(status, 200, "{path} {body}: {:#}", answer["value"]["message"]);
        answer["value"].take()
    }
}

/// Starts the driver, and reads the port on which it listens.
fn start_driver(home: &TempDir) -> Option<(Child, BufReader<ChildStdout>, u16)> {
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "chromedriver", "--port=0"])
        .env("HOME", home.path())
        .env("TMPDIR", home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    // If this process is killed, the driver and the browser are too: the signal is tied to this
    // thread. SAFETY: `prctl` is a plain system call, allowed between fork and exec.
    unsafe {
        unshare.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let mut unshare = unshare.spawn().expect("unshare can be run");
    let mut prints = BufReader::new(unshare.stdout.take().expect("the output is piped"));
    let port = prints.by_ref().lines().find_map(|line| {
        let line = line.expect("the driver prints text");
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    });
    if port.is_none() {
        let _ = unshare.wait();
    }
    Some((unshare, prints, port?))
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver is the first process of the namespace, so all other processes end with it.
        let unshare = self.unshare.id();
        let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children"));
        for child in children.unwrap_or_default().split_whitespace() {
            if let Some(driver) = child.parse().ok().and_then(Pid::from_raw) {
                let _ = kill_process(driver, Signal::KILL);
            }
        }
        let _ = self.unshare.wait();
    }
}
