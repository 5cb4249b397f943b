//! The console in a real browser.
#![allow(clippy::unwrap_used, reason = "a journey ends where something is not as it should be")]

use std::fs;

use iot_core::time::Timestamp;
use iot_ota::release::{FORMAT, Hardware, Image, Manifest, SignedRelease, SigningKey, Version};
use iot_tests::{
    browser::Browser,
    cloud::Cloud,
    person::{Door, Person, mailed_code},
    receiver::Receiver,
    unit::{claim_token, import, simulate},
    wait::{SOON, until},
};

#[test]
fn who_is_not_signed_in_sees_the_way_in_at_every_width() {
    let cloud = Cloud::start(&[]);
    let browser = Browser::open(cloud.address("http"), 1440);
    for (width, path) in [(1440, "/"), (900, "/devices"), (390, "/audit?cursor=x"), (390, "/setup")] {
        browser.resize(width, 900);
        browser.go(path);
        assert_eq!(browser.path(), "/sign-in", "{path}");
        assert!(!browser.text().contains("First start?"), "the printed password was used");
        browser.is_sound();
    }
}

const PASSWORD: &str = "correct horse battery";

/// From an empty folder to a lamp in somebody's home that obeys: all of it in the browser, but for the lamp itself.
#[test]
fn a_new_user_comes_from_nothing_to_a_bound_device_that_answers() {
    let (cloud, password) = Cloud::untouched(&[]);
    let browser = Browser::open(cloud.address("http"), 390);
    browser.go("/sign-in");
    browser.reads("First start?");
    browser.go("/setup");
    browser.is_sound();
    browser.resize(1440, 900);
    browser.fill("One-time password", "not this one");
    browser.fill("Your name", "Ann");
    browser.fill("Your e-mail", "ann@example.org");
    browser.fill("New password", PASSWORD);
    browser.press("Create the account");
    until("a word at the field", SOON, || browser.texts(".wrong").into_iter().next());
    browser.fill("One-time password", &password);
    browser.fill("New password", "Password1");
    browser.press("Create the account");
    browser.reads("guessed first");
    browser.fill("One-time password", &password);
    browser.fill("New password", PASSWORD);
    browser.press("Create the account");
    browser.reads("Overview");
    browser.is_sound();

    browser.go("/products");
    browser.is_sound();
    browser.fill("Id", "lamp");
    browser.fill("Name", "Lamp");
    browser.press("Create");
    until("the product's page", SOON, || (browser.path() == "/products/lamp").then_some(()));
    browser.fill("CSV", "device_id,p_code\nlamp-1\n");
    browser.press("Import");
    browser.reads("Line 2");
    browser.fill("CSV", "device_id,p_code\nlamp-1,LAMP-0001\n");
    browser.press("Import");
    browser.reads("The units are imported");
    browser.is_sound();
    browser.press("Issue");
    browser.reads("Claim token for 1 unit");
    let token = browser.texts("code.block").into_iter().find(|text| text.starts_with("ct_")).unwrap();
    let lamp = simulate(&cloud, "lamp-1", &token, &["--local", "127.0.0.1:0", "--interval-ms", "500"]);
    let door = Door::of(&lamp);

    browser.go("/homes");
    browser.is_sound();
    browser.fill("Name", "Hill House");
    browser.press("Make");
    browser.reads("Hill House");
    browser.is_sound();
    browser.fill("Add a device: the code that it shows", "0000-0000-0000-0000-0000-0000-00");
    browser.press("Add");
    until("a word at the code", SOON, || browser.texts(".wrong").into_iter().next());
    let (_, code) = door.press();
    browser.fill("Add a device: the code that it shows", &code.to_ascii_lowercase());
    browser.press("Add");
    browser.reads("lamp-1");
    until("the lamp to have an owner", SOON, || (door.look()["bound"] == true).then_some(()));

    browser.go("/devices/lamp-1");
    until("the lamp to be shown as connected", SOON, || {
        browser.go("/devices/lamp-1");
        browser.text().contains("temperature").then_some(())
    });
    browser.is_sound();
    browser.fill("Command", "set");
    browser.fill("Arguments, as JSON", r#"{"on": true}"#);
    browser.press("Send");
    browser.reads("applied");
    assert_eq!(door.look()["on"], true);
    browser.is_sound();

    for width in [900, 390] {
        browser.resize(width, 900);
        for path in [
            "/",
            "/devices",
            "/devices/lamp-1",
            "/products",
            "/products/lamp",
            "/homes",
            "/rollouts",
            "/audit",
            "/account",
        ] {
            browser.go(path);
            browser.is_sound();
        }
    }

    browser.go("/account");
    browser.press("Sign out");
    until("the way in", SOON, || (browser.path() == "/sign-in").then_some(()));
    browser.go("/devices/lamp-1");
    assert_eq!(browser.path(), "/sign-in");
    browser.fill("E-mail", "ann@example.org");
    browser.fill("Password", PASSWORD);
    browser.press("Sign in");
    until("the page that was asked for", SOON, || (browser.path() == "/devices/lamp-1").then_some(()));
}

/// In the dark, and with a name that means to be a script.
#[test]
fn what_people_write_is_text_and_the_dark_is_readable() {
    let (cloud, password) = Cloud::untouched(&[]);
    let browser = Browser::dark(cloud.address("http"), 390);
    browser.go("/setup");
    browser.fill("One-time password", &password);
    browser.fill("Your name", "<script>document.title='no'</script>");
    browser.fill("Your e-mail", "ann@example.org");
    browser.fill("New password", PASSWORD);
    browser.press("Create the account");
    browser.reads("Overview");
    browser.go("/homes");
    browser.fill("Name", "<img src=x onerror=\"document.title='no'\">");
    browser.press("Make");
    browser.reads("<img src=x");
    browser.is_sound();
    browser.go("/account");
    browser.is_sound();
    assert!(
        browser
            .script("return document.title !== 'no' && matchMedia('(prefers-color-scheme: dark)').matches")
            .as_bool()
            .unwrap()
    );
    browser.go("/devices/nobody");
    until("a page that says so", SOON, || browser.texts("h1").into_iter().next());
}

/// A browser in which somebody is signed in.
fn signed_in(cloud: &Cloud, email: &str, width: u32) -> Browser {
    let browser = Browser::open(cloud.address("http"), width);
    browser.go("/sign-in");
    browser.fill("E-mail", email);
    browser.fill("Password", PASSWORD);
    browser.press("Sign in");
    until("to be signed in", SOON, || (browser.path() != "/sign-in").then_some(()));
    browser
}

/// A stranger becomes an owner, shares the home, changes and removes a member, moves a device and lets it go.
#[test]
fn people_run_their_homes_in_the_browser() {
    let cloud = Cloud::start(&[]);
    let admin = cloud.admin();
    import(&admin, "lamp", &["lamp-1"]);
    let token = claim_token(&admin, "lamp", 1, false);
    let args = ["--device", "lamp-1", "--local", "127.0.0.1:0", "--interval-ms", "500"];
    let mut lamp = simulate(&cloud, "lamp-1", &token, &args);
    let door = Door::of(&lamp);

    let bob = Browser::open(cloud.address("http"), 390);
    bob.go("/sign-in");
    bob.press("Make an account");
    bob.fill("Your name", "Bob");
    bob.fill("E-mail", "bob@example.org");
    bob.fill("Password", PASSWORD);
    bob.press("Go on");
    bob.reads("Confirm your e-mail");
    bob.fill("Code from the mail", "aaaa-aaaa");
    bob.press("Confirm");
    bob.reads("not right");
    bob.is_sound();
    bob.fill("Code from the mail", &mailed_code(&cloud, "bob@example.org"));
    bob.press("Confirm");
    bob.reads("Your account is ready");
    bob.fill("E-mail", "bob@example.org");
    bob.fill("Password", PASSWORD);
    bob.press("Sign in");
    bob.reads("You are in no home yet");

    for name in ["Lake Cottage", "Hill House"] {
        bob.go("/homes");
        bob.fill("Name", name);
        bob.press("Make");
        bob.reads("The home is made");
    }
    let home = bob.path();
    bob.fill("Add a device: the code that it shows", &door.press().1);
    bob.press("Add");
    bob.reads("The device is yours now");
    bob.is_sound();

    // The state of a device changes on a page that stays as it is.
    bob.go(&home);
    bob.reads("Live");
    bob.reads("online");
    bob.script("window.stays = true");
    lamp.kill();
    bob.reads("offline");
    assert_eq!(bob.script("return window.stays"), true);

    // A code with its picture, a member by it, changed and removed.
    bob.press("Make a code");
    bob.reads("Share this code");
    bob.is_sound();
    let squares = bob.script("return document.querySelector('svg.qr path').getBBox().width").as_f64().unwrap();
    assert!(squares >= 21.0, "{squares}");
    let code = bob.texts("code.block").remove(0);
    let carol = Person::register(&cloud, "carol");
    carol.api.post("/v1/invites/accept", &serde_json::json!({"code": code})).is(200);
    bob.go(&home);
    bob.is_sound();
    let member = format!("{home}/members/{}", carol.account);
    bob.go(&member);
    bob.is_sound();
    bob.choose("Role", "manager: invites and adds devices");
    bob.choose("Access ends", "a day from now");
    bob.press("Save");
    bob.reads("is changed");
    bob.reads("manager");
    for question in ["own", "remove"] {
        bob.go(&format!("{member}/{question}"));
        bob.reads("What ends");
        bob.is_sound();
    }
    bob.press("Keep it as it is");
    until("the member's page", SOON, || (bob.path() == member).then_some(()));
    bob.go(&format!("{member}/remove"));
    bob.press("Remove");
    bob.reads("They are no longer in this home");
    carol.api.get(&format!("/v1{home}")).is(403);

    bob.go("/devices/lamp-1");
    bob.choose("Move it to another home of yours", "Lake Cottage");
    bob.press("Move");
    bob.reads("stands in its other home");
    bob.reads("Lake Cottage");
    bob.press("Release it…");
    bob.reads("What ends");
    bob.is_sound();
    bob.press("Release the device");
    bob.reads("The device is released");
    bob.go("/devices/lamp-1");
    bob.reads("Not permitted");
    // The browser itself reports the answer.
    let _forbidden = bob.console_errors();

    bob.go(&format!("{home}/dissolve"));
    bob.is_sound();
    bob.press("Dissolve the home");
    bob.reads("The home is dissolved");
    for width in [1440, 900, 390] {
        bob.resize(width, 900);
        for path in ["/account", "/account/sign-out-everywhere", "/account/delete", "/homes", "/more"] {
            bob.go(path);
            bob.is_sound();
        }
    }
    bob.go("/account");
    bob.press("Sign out everywhere…");
    bob.press("Sign out everywhere");
    until("the way in", SOON, || (bob.path() == "/sign-in").then_some(()));
}

fn release(image: &[u8], key: &SigningKey) -> SignedRelease {
    let manifest = Manifest {
        format: FORMAT,
        tenant: "default".parse().unwrap(),
        product: "lamp".parse().unwrap(),
        version: Version::parse("2.0.0").unwrap(),
        sequence: 2,
        security_version: 1,
        hardware: vec![Hardware::parse("r1").unwrap()],
        image: Image::of(image, 16 * 1_024).unwrap(),
        notes: "Brighter, and quicker to answer.".into(),
        created: Timestamp::from_millis(1_790_000_000_000),
        expires: Timestamp::from_millis(4_000_000_000_000),
    };
    SignedRelease::sign(&manifest, &[key]).unwrap()
}

/// The vendor's people: keys, a release from its file to a rollout, webhooks with their secret, and who works here.
#[test]
fn the_vendor_runs_updates_webhooks_and_people_in_the_browser() {
    let cloud = Cloud::start(&["--webhooks-to-loopback"]);
    import(&cloud.admin(), "lamp", &["lamp-1"]);
    let ann = Person::register(&cloud, "ann");
    let staff = format!("/v1/accounts/{}/staff", ann.account);
    cloud.admin().put(&staff, &serde_json::json!({"role": "admin"})).is(200);
    let _bob = Person::register(&cloud, "bob");
    let browser = signed_in(&cloud, &ann.email, 1440);

    let (key, image) = (SigningKey::from_seed(&[7; 32]).unwrap(), vec![9; 100_000]);
    let file = |name: &str, bytes: &[u8]| {
        let path = cloud.folder().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let manifest = file("release.json", &serde_json::to_vec(&release(&image, &key)).unwrap());
    browser.go("/releases");
    browser.is_sound();
    browser.attach("Signed release", &manifest);
    browser.press("Take in");
    browser.reads("Nobody has said yet");
    browser.is_sound();
    browser.press("Say whose signatures count");
    browser.reads("Trusted keys");
    browser.fill("Public keys, one a line", serde_json::to_value(key.public()).unwrap().as_str().unwrap());
    browser.press("Save");
    browser.reads("these keys' signatures count");
    browser.is_sound();
    browser.go("/releases");
    browser.attach("Signed release", &manifest);
    browser.press("Take in");
    browser.reads("Upload its image next");
    let release = browser.path();
    browser.attach("File, 97.7 KiB", &file("wrong.bin", &[8; 100_000]));
    browser.press("Upload");
    browser.reads("This is not the file that was signed");
    browser.is_sound();
    browser.attach("File, 97.7 KiB", &file("right.bin", &image));
    browser.press("Upload");
    browser.reads("the release is ready");
    browser.is_sound();
    browser.press("Plan a rollout");
    browser.press("Plan");
    browser.reads("The rollout is planned");
    let rollout = browser.path();
    for (press, reads) in [("Start", "has begun"), ("Pause", "No further device"), ("Go on", "goes on")] {
        browser.press(press);
        browser.reads(reads);
    }
    browser.press("Cancel…");
    browser.is_sound();
    browser.press("Cancel the rollout");
    browser.reads("The rollout is over");

    let receiver = Receiver::new();
    browser.go("/webhooks");
    browser.is_sound();
    browser.fill("Address", "https://10.0.0.1/hook");
    browser.press("Register");
    browser.reads("not on the public internet");
    assert_eq!(browser.value("Address"), "https://10.0.0.1/hook");
    browser.is_sound();
    browser.fill("Address", &receiver.url());
    browser.press("Register");
    browser.reads("This is the secret");
    browser.is_sound();
    receiver.set_secret(&browser.texts("code.block").remove(0));
    browser.press("send a test");
    let webhook = browser.path();
    browser.press("Send a test");
    browser.reads("delivered");
    browser.is_sound();
    browser.press("New secret");
    browser.reads("The new secret");
    receiver.set_secret(&browser.texts("code.block").remove(0));
    browser.go(&webhook);
    browser.press("Send a test");
    until("the second to be delivered", SOON, || (browser.text().matches("delivered").count() == 2).then_some(()));

    browser.go("/staff");
    browser.fill("Their e-mail", "nobody@example.org");
    browser.press("Add");
    browser.reads("Let them register first");
    browser.is_sound();
    browser.fill("Their e-mail", "bob@example.org");
    browser.choose("Role", "operator: controls and updates");
    browser.press("Add");
    browser.reads("What they are to the vendor is changed");
    browser.press("bob");
    browser.reads("With the vendor");
    let person = browser.path();

    let remove = format!("{webhook}/remove");
    let shut_out = format!("{person}/shut-out");
    let withdraw = format!("{release}/withdraw");
    let pages = ["/webhooks", &webhook, &remove, "/staff?all=1", &person, &shut_out, "/releases", &release, &withdraw];
    for width in [1440, 900, 390] {
        browser.resize(width, 900);
        for path in pages.into_iter().chain([rollout.as_str(), "/products/lamp/trust", "/rollouts", "/more"]) {
            browser.go(path);
            browser.is_sound();
        }
    }
    browser.go(&remove);
    browser.press("Remove the webhook");
    browser.reads("The webhook is removed");
}
