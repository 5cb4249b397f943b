//! A browser without scripts: it keeps cookies, and says of which site its requests are.

use std::{cell::RefCell, collections::BTreeMap, fs, path::Path};

use ureq::{Body, http::Response};

use super::{Server, agent, text};

/// A browser: it keeps cookies, and says of which site its requests are.
pub struct Browser<'a> {
    pub server: &'a Server,
    pub cookies: RefCell<BTreeMap<String, String>>,
    pub site: &'static str,
}

impl<'a> Browser<'a> {
    pub fn of(server: &'a Server) -> Self {
        Self { server, cookies: RefCell::default(), site: "same-origin" }
    }

    pub fn header(&self) -> String {
        let cookies = self.cookies.borrow();
        cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ")
    }

    pub fn keep(&self, answer: Response<Body>) -> Response<Body> {
        for set in answer.headers().get_all("set-cookie") {
            let set = set.to_str().unwrap();
            assert!(set.contains("; HttpOnly") && set.contains("; SameSite=Lax"), "{set}");
            let (name, value) = set.split(';').next().unwrap().split_once('=').unwrap();
            match set.contains("Max-Age=0;") {
                true => drop(self.cookies.borrow_mut().remove(name)),
                false => drop(self.cookies.borrow_mut().insert(name.to_owned(), value.to_owned())),
            }
        }
        answer
    }

    pub fn get(&self, path: &str) -> Response<Body> {
        let request = agent().get(self.server.url(path)).header("Accept", "text/html");
        self.keep(request.header("Cookie", self.header()).header("Sec-Fetch-Site", self.site).call().unwrap())
    }

    pub fn post(&self, path: &str, form: &[(&str, &str)]) -> (u16, String) {
        let request = agent().post(self.server.url(path)).header("Accept", "text/html");
        let request = request.header("Cookie", self.header()).header("Sec-Fetch-Site", self.site);
        let answer = self.keep(request.send_form(form.iter().copied()).unwrap());
        answered(answer)
    }

    pub fn set_up(&self) {
        let once = self.server.password().unwrap();
        let done = self.post("/setup", &[("once", once), ("name", "Ann"), ("email", EMAIL), ("password", PASSWORD)]);
        assert_eq!(done, (303, "/".to_owned()));
    }

    /// Another browser, in which `name@example.org` has registered by the mailed code and signed in.
    pub fn register(server: &'a Server, folder: &Path, name: &str) -> Self {
        let (person, email) = (Self::of(server), format!("{name}@example.org"));
        let (status, to) = person.post("/register", &[("name", name), ("email", &email), ("password", PASSWORD)]);
        assert_eq!(status, 303, "{to}");
        let confirmation = to.split_once('=').unwrap().1;
        let code = mailed_code(folder, &email);
        let done = person.post("/register/code", &[("confirmation", confirmation), ("code", &code)]);
        assert_eq!(done, (303, "/sign-in?done=registered".to_owned()));
        assert_eq!(person.post("/sign-in", &[("email", &email), ("password", PASSWORD)]).0, 303);
        person
    }

    /// Sends a form with one file.
    pub fn post_file(&self, path: &str, name: &str, file: &[u8]) -> (u16, String) {
        let head = format!(
            "--edge\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"file\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        let body = [head.as_bytes(), file, b"\r\n--edge--\r\n"].concat();
        let request = agent().post(self.server.url(path)).header("Accept", "text/html");
        let request = request.header("Cookie", self.header()).header("Sec-Fetch-Site", self.site);
        let request = request.header("Content-Type", "multipart/form-data; boundary=edge");
        answered(self.keep(request.send(&body[..]).unwrap()))
    }

    pub fn page(&self, path: &str) -> String {
        let answer = self.get(path);
        assert_eq!(answer.status(), 200, "{path}");
        text(answer)
    }

    pub fn is_in(&self) -> bool {
        self.get("/").status() == 200
    }
}

pub const EMAIL: &str = "ann@example.org";
pub const PASSWORD: &str = "correct horse";

/// The status, and where the answer sends the browser or else what it says.
fn answered(answer: Response<Body>) -> (u16, String) {
    let location = answer.headers().get("location").map(|to| to.to_str().unwrap().to_owned());
    (answer.status().as_u16(), location.unwrap_or_else(|| text(answer)))
}

/// The newest code that was mailed to an address; what is mailed after the answer is waited for.
pub fn mailed_code(folder: &Path, email: &str) -> String {
    let deadline = std::time::Instant::now() + super::PATIENCE;
    loop {
        let mut mails: Vec<_> = fs::read_dir(folder.join("outbox")).into_iter().flatten().flatten().collect();
        mails.sort_by_key(|entry| std::cmp::Reverse(entry.metadata().unwrap().modified().unwrap()));
        let texts = mails.iter().filter_map(|entry| fs::read_to_string(entry.path()).ok());
        let mut own = texts.filter(|mail| mail.contains(&format!("To: {email}")));
        let code =
            own.next().and_then(|mail| mail.lines().map(str::trim).find(|line| is_code(line)).map(str::to_owned));
        match code {
            Some(code) => return code,
            None => assert!(std::time::Instant::now() < deadline, "no mail to {email}"),
        }
        std::thread::yield_now();
    }
}

fn is_code(line: &str) -> bool {
    line.len() == 9 && line.as_bytes()[4] == b'-'
}
