//! A real browser: Chromium, driven through chromedriver (W3C WebDriver).

use std::{
    fmt, fs,
    future::Future,
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use fantoccini::{Client, ClientBuilder, Locator, elements::Element};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::{process::Process, wait::SOON};

/// The pause between two looks at a page.
const PAUSE: Duration = Duration::from_millis(50);

/// A window of a browser that nobody else uses, without a history.
pub struct Browser {
    runtime: Runtime,
    client: Option<Client>,
    site: String,
    // In this order: the driver ends before its folder is removed.
    _driver: Process,
    _profile: TempDir,
}

impl fmt::Debug for Browser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Browser").field("site", &self.site).finish_non_exhaustive()
    }
}

impl Browser {
    /// Opens a window of `width` × 900 pixels on a site, for example `127.0.0.1:8080`.
    #[track_caller]
    pub fn open(site: SocketAddr, width: u32) -> Self {
        Self::with(site, width, &[])
    }

    /// The same with a dark colour scheme.
    #[track_caller]
    pub fn dark(site: SocketAddr, width: u32) -> Self {
        Self::with(site, width, &["--blink-settings=preferredColorScheme=0"])
    }

    #[track_caller]
    fn with(site: SocketAddr, width: u32, more: &[&str]) -> Self {
        let profile = tempfile::tempdir().expect("a folder for the browser's profile");
        let mut command = Command::new("chromedriver");
        command.args(["--port=0", "--log-level=WARNING"]).current_dir(profile.path());
        let driver = Process::start("chromedriver", command, "apt-get install chromium chromium-driver");
        let port = driver.line("its port", SOON, |line| {
            let number = line.split_once("started successfully on port ")?.1.trim_end_matches('.');
            number.parse::<u16>().ok()
        });
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = runtime.block_on(connect(port, profile.path(), width, more));
        let client = client.unwrap_or_else(|error| panic!("chromedriver opens no window: {error}"));
        Self { runtime, client: Some(client), site: format!("http://{site}"), _driver: driver, _profile: profile }
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is open until it is dropped")
    }

    #[track_caller]
    fn wait<T, E: fmt::Display>(&self, what: &str, future: impl Future<Output = Result<T, E>>) -> T {
        match self.runtime.block_on(async { tokio::time::timeout(SOON, future).await }) {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => panic!("{what}: {error}\n{}", self.text()),
            Err(_) => panic!("{what}: no answer within {SOON:?}"),
        }
    }

    /// Goes to a path of the site.
    #[track_caller]
    pub fn go(&self, path: &str) {
        self.wait(path, self.client().goto(&format!("{}{path}", self.site)));
    }

    /// The path that is shown.
    #[track_caller]
    pub fn path(&self) -> String {
        self.wait("the address", self.client().current_url()).path().to_owned()
    }

    /// All text that can be read.
    pub fn text(&self) -> String {
        let text = self.runtime.block_on(async {
            let body = self.client().find(Locator::Css("body")).await.ok()?;
            body.text().await.ok()
        });
        text.unwrap_or_default()
    }

    /// Waits until the page says something.
    #[track_caller]
    pub fn reads(&self, text: &str) {
        self.reads_within(text, SOON);
    }

    /// The same with a time of its own.
    #[track_caller]
    pub fn reads_within(&self, text: &str, within: Duration) {
        let begun = Instant::now();
        while !self.text().contains(text) {
            assert!(begun.elapsed() < within, "{} does not say {text:?} but:\n{}", self.path(), self.text());
            std::thread::sleep(PAUSE);
        }
    }

    /// Types into the field with this label, in place of what is there.
    #[track_caller]
    pub fn fill(&self, label: &str, value: &str) {
        let field = self.field(label);
        self.wait(label, field.clear());
        self.wait(label, field.send_keys(value));
    }

    /// Chooses an option of the field with this label.
    #[track_caller]
    pub fn choose(&self, label: &str, option: &str) {
        self.wait(label, self.field(label).select_by_label(option));
    }

    /// Chooses a file for the field with this label.
    #[track_caller]
    pub fn attach(&self, label: &str, file: &Path) {
        let path = file.to_str().expect("the path is text");
        self.wait(label, self.field(label).send_keys(path));
    }

    /// The text in the field with this label.
    #[track_caller]
    pub fn value(&self, label: &str) -> String {
        self.wait(label, self.field(label).prop("value")).unwrap_or_default()
    }

    /// Presses the button or follows the link that says this.
    #[track_caller]
    pub fn press(&self, text: &str) {
        let quoted = quoted(text);
        let way = format!(
            "//button[normalize-space()={quoted}]|//a[normalize-space()={quoted}]|//summary[normalize-space()={quoted}]"
        );
        let found = self.wait(text, self.client().wait().at_most(SOON).for_element(Locator::XPath(&way)));
        // The driver scrolls no further than the edge of the window, where the navigation of a phone lies.
        let element = serde_json::to_value(&found).expect("an element has a name");
        self.wait(text, self.client().execute("arguments[0].scrollIntoView({block: 'center'})", vec![element]));
        self.wait(text, found.click());
    }

    #[track_caller]
    fn field(&self, label: &str) -> Element {
        let way = format!("//*[@id=//label[normalize-space()={}]/@for]", quoted(label));
        self.wait(label, self.client().wait().at_most(SOON).for_element(Locator::XPath(&way)))
    }

    /// Text of every element that a selector finds.
    #[track_caller]
    pub fn texts(&self, css: &str) -> Vec<String> {
        self.wait(css, async {
            let mut texts = Vec::new();
            for element in self.client().find_all(Locator::Css(css)).await? {
                texts.push(element.text().await?);
            }
            Ok::<_, fantoccini::error::CmdError>(texts)
        })
    }

    /// Runs a script and answers what it returns.
    #[track_caller]
    pub fn script(&self, script: &str) -> Value {
        self.wait(script, self.client().execute(script, vec![]))
    }

    /// Changes the size of the window.
    #[track_caller]
    pub fn resize(&self, width: u32, height: u32) {
        self.wait("the size", self.client().set_window_size(width, height));
    }

    /// A picture of the window, PNG.
    #[track_caller]
    pub fn picture(&self, file: &Path) {
        let png = self.wait("a picture", self.client().screenshot());
        fs::write(file, png).expect("the picture can be written");
    }

    /// Demands of the present page what every page owes: nothing wider than the window, nothing loaded from elsewhere, no
    /// error that a script or the browser reported, a title, one main heading, and a name for everything that can be used.
    #[track_caller]
    pub fn is_sound(&self) {
        let path = self.path();
        let found = self.script(include_str!("sound.js"));
        let faults = found.as_array().expect("the script answers a list");
        assert!(faults.is_empty(), "{path}: {faults:#?}");
        let errors = self.console_errors();
        assert!(errors.is_empty(), "{path}: {errors:#?}");
    }

    /// What the browser's console holds since it was read last, warnings apart. That a form was answered with its mistakes (422)
    /// is no error of the page.
    #[track_caller]
    pub fn console_errors(&self) -> Vec<String> {
        let entries = self.wait("the console", self.client().issue_cmd(Log));
        let severe = entries.as_array().into_iter().flatten().filter(|entry| entry["level"] == "SEVERE");
        let messages = severe.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned());
        messages.filter(|message| !message.contains("status of 422")).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            // What does not end by itself is killed with the driver.
            let _late =
                self.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(5), client.close()).await });
        }
    }
}

async fn connect(
    port: u16,
    profile: &Path,
    width: u32,
    more: &[&str],
) -> Result<Client, fantoccini::error::NewSessionError> {
    let mut args = vec![
        "--headless=new".to_owned(),
        "--no-sandbox".to_owned(),
        "--disable-gpu".to_owned(),
        "--disable-dev-shm-usage".to_owned(),
        "--hide-scrollbars".to_owned(),
        "--no-first-run".to_owned(),
        "--disable-background-networking".to_owned(),
        "--disable-component-update".to_owned(),
        format!("--window-size={width},900"),
        format!("--user-data-dir={}", profile.join("profile").display()),
    ];
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    let mut wanted = serde_json::Map::new();
    wanted.insert("goog:chromeOptions".to_owned(), json!({"args": args}));
    wanted.insert("goog:loggingPrefs".to_owned(), json!({"browser": "ALL"}));
    let client = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
        .capabilities(wanted)
        .connect(&format!("http://127.0.0.1:{port}"))
        .await?;
    Ok(client)
}

/// A text as XPath writes it.
fn quoted(text: &str) -> String {
    if text.contains('\'') { format!("\"{text}\"") } else { format!("'{text}'") }
}

/// Chromedriver's own command for the console.
#[derive(Debug)]
struct Log;

impl fantoccini::wd::WebDriverCompatibleCommand for Log {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/se/log", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(json!({"type": "browser"}).to_string()))
    }
}
