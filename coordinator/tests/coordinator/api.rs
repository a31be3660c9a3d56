//! The HTTP API as programs use it: as its description says, page by page, only what has changed, and followed.

use std::io::Write as _;
use std::net::SocketAddr;

use flate2::write::GzDecoder;
use gavel_core::ids::RunId;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{OWN_RUBRIC, RUN, Served, Working, options, spec, whole_fleet};

/// A coordinator whose run has finished, as three steps of six pairs.
async fn finished() -> (TempDir, Served, Vec<Working>) {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    coordinator.submit().await;
    let workers = whole_fleet(coordinator.handle.grpc_address());
    coordinator.until(|status| status.phase.is_ended()).await;
    (folder, coordinator, workers)
}

async fn end(coordinator: Served, workers: Vec<Working>) {
    for worker in workers {
        worker.stop().await;
    }
    coordinator.stop().await;
}

/// The status line with the headers, in small letters, and the body.
async fn ask(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.expect("a server");
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("headers");
    let body = answer.split_off(end + 4);
    (String::from_utf8(answer).expect("text").to_lowercase(), body)
}

async fn get(address: SocketAddr, path: &str) -> Value {
    let (head, body) = ask(address, "GET", path, "", "").await;
    assert!(head.starts_with("http/1.0 200"), "{path}: {head}");
    serde_json::from_slice(&body).expect(path)
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let line = head
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_the_description_says() {
    let (_folder, coordinator, workers) = finished().await;
    let address = coordinator.handle.http_address();
    let document = get(address, "/api/v1/openapi.json").await;
    let mut schemas = boon::Schemas::new();
    let mut compiler = boon::Compiler::new();
    compiler.set_default_draft(boon::Draft::V2020_12);
    compiler
        .add_resource("http://gavel/openapi.json", document.clone())
        .expect("a resource");
    let image = get(address, &format!("/api/v1/runs/{RUN}/pairs?limit=1")).await["pairs"][0]["images"][0].clone();
    let mut looked_at = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let Some(operation) = operations.get("get") else {
            continue;
        };
        let asked = path
            .replace("{run}", RUN)
            .replace("{sha256}", image.as_str().expect("a hash"));
        if operation.pointer("/responses/200/content/text~1event-stream").is_some() {
            continue;
        }
        let (head, body) = ask(address, "GET", &asked, "", "").await;
        assert!(head.starts_with("http/1.0 200"), "{asked}: {head}");
        if operation
            .pointer("/responses/200/content/application~1json/schema")
            .is_none()
        {
            continue;
        }
        let escaped = path
            .replace('~', "~0")
            .replace('/', "~1")
            .replace('{', "%7B")
            .replace('}', "%7D");
        let at =
            format!("http://gavel/openapi.json#/paths/{escaped}/get/responses/200/content/application~1json/schema");
        let schema = compiler.compile(&at, &mut schemas).expect("a schema");
        let answer: Value = serde_json::from_slice(&body).expect("JSON");
        if let Err(error) = schemas.validate(&answer, schema) {
            panic!("{asked}: {error:#}\n{answer:#}");
        }
        looked_at += 1;
    }
    assert!(looked_at >= 12, "only {looked_at} answers were looked at");

    // What is refused is described too.
    let at = "http://gavel/openapi.json#/components/schemas/Problem";
    let problem = compiler.compile(at, &mut schemas).expect("a schema");
    let (_, body) = ask(address, "GET", "/api/v1/runs/nothing", "", "").await;
    let answer: Value = serde_json::from_slice(&body).expect("JSON");
    assert!(schemas.validate(&answer, problem).is_ok(), "{answer}");
    assert!(
        schemas.validate(&json!({ "hint": null }), problem).is_err(),
        "the schema tells answers apart"
    );
    end(coordinator, workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_an_answer_is_told_so_until_it_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    coordinator.submit().await;
    let address = coordinator.handle.http_address();
    for path in [
        "/",
        &format!("/runs/{RUN}"),
        "/api/v1/runs",
        &format!("/api/v1/runs/{RUN}"),
        "/api/v1/overview",
        "/api/v1/openapi.json",
    ] {
        let (head, _) = ask(address, "GET", path, "", "").await;
        let tag = header(&head, "etag").to_owned();
        assert!(tag.starts_with("w/\""), "{path}: {head}");
        let known = format!("If-None-Match: \"other\", {}\r\n", tag.replace("w/", "W/"));
        let (head, body) = ask(address, "GET", path, &known, "").await;
        assert!(head.starts_with("http/1.0 304") && body.is_empty(), "{path}: {head}");
        assert_eq!(header(&head, "etag"), tag);
        let other = "If-None-Match: W/\"other\"\r\n";
        assert!(
            ask(address, "GET", path, other, "").await.0.starts_with("http/1.0 200"),
            "{path}"
        );
    }
    let path = format!("/api/v1/runs/{RUN}");
    let tag = header(&ask(address, "GET", &path, "", "").await.0, "etag").replace("w/", "W/");
    let (head, _) = ask(address, "POST", &format!("{path}/pause"), "", r#"{"reason": "lunch"}"#).await;
    assert!(head.starts_with("http/1.0 200"), "{head}");
    let (head, _) = ask(address, "GET", &path, &format!("If-None-Match: {tag}\r\n"), "").await;
    assert!(head.starts_with("http/1.0 200"), "{head}");
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_compressed_for_whoever_can_read_that_and_pictures_are_not() {
    let (_folder, coordinator, workers) = finished().await;
    let address = coordinator.handle.http_address();
    let image = get(address, &format!("/api/v1/runs/{RUN}/pairs?limit=1")).await["pairs"][0]["images"][0].clone();
    let image = format!("/api/v1/blobs/{}", image.as_str().expect("a hash"));
    let run = format!("/api/v1/runs/{RUN}");
    for (path, is_compressed) in [("/", true), (&run, true), (&image, false)] {
        let (head, body) = ask(address, "GET", path, "Accept-Encoding: gzip\r\n", "").await;
        assert_eq!(
            header(&head, "content-encoding") == "gzip",
            is_compressed,
            "{path}: {head}"
        );
        assert_eq!(body.starts_with(&[0x1f, 0x8b]), is_compressed, "{path}");
        let (head, _) = ask(address, "GET", path, "", "").await;
        assert_eq!(header(&head, "content-encoding"), "", "{path}");
    }
    end(coordinator, workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_come_page_by_page_in_the_order_of_their_submission() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    let submitted = ["c", "a", "b", "e", "d"];
    for run in submitted {
        coordinator.submit_as(run, spec()).await;
    }
    let address = coordinator.handle.http_address();
    let name = |status: &Value| status["run"].as_str().expect("a name").to_owned();
    let all = get(address, "/api/v1/runs").await;
    assert_eq!(all["next"], Value::Null);
    let all: Vec<String> = all["runs"].as_array().expect("runs").iter().map(name).collect();
    assert_eq!(all, submitted);

    let (mut pages, mut after) = (Vec::new(), String::new());
    loop {
        let page = get(address, &format!("/api/v1/runs?limit=2{after}")).await;
        pages.push(
            page["runs"]
                .as_array()
                .expect("runs")
                .iter()
                .map(name)
                .collect::<Vec<_>>(),
        );
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(pages, [vec!["c", "a"], vec!["b", "e"], vec!["d"]]);

    let (head, body) = ask(address, "GET", "/api/v1/runs?after=nothing", "", "").await;
    let body = String::from_utf8(body).expect("text");
    assert!(
        head.starts_with("http/1.0 400") && body.contains("after: names no run"),
        "{head} {body}"
    );
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_come_page_by_page_and_as_they_are_asked_for() {
    let (_folder, coordinator, workers) = finished().await;
    let address = coordinator.handle.http_address();
    let at = |query: &str| format!("/api/v1/runs/{RUN}/pairs?{query}");
    let place = |pair: &Value| (pair["step"].as_u64(), pair["index"].as_u64());
    let all = get(address, &at("limit=500")).await;
    assert_eq!(all["next"], Value::Null);
    let all: Vec<_> = all["pairs"].as_array().expect("pairs").iter().map(place).collect();
    assert_eq!(all.len(), 18);
    assert_eq!((all[0], all[17]), ((Some(3), Some(0)), (Some(1), Some(5))));

    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let page = get(address, &at(&format!("limit=4{after}"))).await;
        paged.extend(page["pairs"].as_array().expect("pairs").iter().map(place));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(paged, all);

    let count = async |query: &str| {
        get(address, &at(&format!("limit=500&{query}"))).await["pairs"]
            .as_array()
            .map(Vec::len)
    };
    assert_eq!(count("step=2").await, Some(6));
    assert_eq!(count("step=9").await, Some(0));
    let [decided, undecided, failed] = [
        count("outcome=decided").await,
        count("outcome=undecided").await,
        count("outcome=failed").await,
    ];
    assert_eq!(
        decided.zip(undecided).zip(failed).map(|((a, b), c)| a + b + c),
        Some(18)
    );
    let [first, second] = [count("winner=1").await, count("winner=2").await];
    assert_eq!(first.zip(second).map(|(first, second)| first + second), decided);
    assert_eq!(count("winner=3").await, Some(0));
    let found = get(address, &at("limit=500&prompt=PROMPT%203")).await;
    let found = found["pairs"].as_array().expect("pairs");
    assert!(
        !found.is_empty() && found.iter().all(|pair| pair["prompt"] == "prompt 3"),
        "{found:?}"
    );
    // Each page carries the rubrics by which its pairs were decided.
    let page = get(address, &at("limit=500")).await;
    for pair in page["pairs"].as_array().expect("pairs") {
        let rubric = &page["rubrics"][pair["verdicts"][0]["rubric"].as_str().expect("a fingerprint")];
        let expected = match pair["prompt"] == "prompt 3" {
            true => json!({ "text": OWN_RUBRIC, "of_prompt": true }),
            false => json!({ "text": "the better picture wins", "of_prompt": false }),
        };
        assert_eq!(*rubric, expected, "{}", pair["prompt"]);
    }
    let held_out = get(address, &format!("/api/v1/runs/{RUN}/evaluation")).await;
    let rubric = &held_out["tasks"][1]["verdict"]["rubric"];
    assert_eq!(
        held_out["rubrics"][rubric.as_str().expect("a fingerprint")]["text"],
        OWN_RUBRIC
    );
    let (head, body) = ask(address, "GET", &at("after=x"), "", "").await;
    assert!(head.starts_with("http/1.0 400"), "{head}");
    assert!(
        String::from_utf8_lossy(&body).contains("after: `x` is not what an earlier page gave"),
        "{body:?}"
    );
    end(coordinator, workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_held_out_prompts_come_page_by_page() {
    let (_folder, coordinator, workers) = finished().await;
    let address = coordinator.handle.http_address();
    let at = |query: &str| format!("/api/v1/runs/{RUN}/events?{query}");
    let latest = get(address, &at("limit=5")).await;
    let last = latest["last"].as_u64().expect("a number");
    let numbers = |page: &Value| -> Vec<u64> {
        let events = page["events"].as_array().expect("events");
        events.iter().filter_map(|event| event["sequence"].as_u64()).collect()
    };
    assert_eq!(numbers(&latest), (last - 4..=last).collect::<Vec<_>>());
    let first = get(address, &at("before=4")).await;
    assert_eq!(numbers(&first), [1, 2, 3]);
    assert_eq!(first["events"][0]["kind"], "granted");
    assert!(
        first["events"][0]["unit"].is_string() && first["events"][0]["worker"].is_string(),
        "{first}"
    );
    assert!(numbers(&get(address, &at("before=1")).await).is_empty());
    assert_eq!(
        numbers(&get(address, &at("limit=1000")).await).len() as u64,
        last.min(1_000)
    );

    let held_out = get(address, &format!("/api/v1/runs/{RUN}/evaluation?limit=2")).await;
    assert_eq!((&held_out["prompts"], &held_out["next"]), (&json!(3), &json!(1)));
    let rest = get(address, &format!("/api/v1/runs/{RUN}/evaluation?limit=2&after=1")).await;
    assert_eq!(
        (&rest["tasks"][0]["prompt"], &rest["next"]),
        (&json!("held out 2"), &Value::Null)
    );
    assert!(
        rest["tasks"][0]["base"].is_string() && rest["tasks"][0]["verdict"].is_object(),
        "{rest}"
    );

    let settings = get(address, &format!("/api/v1/runs/{RUN}/settings")).await;
    assert_eq!(settings["spec"]["run"]["steps"], 3);
    assert_eq!(settings["rubric"]["text"], "the better picture wins");
    end(coordinator, workers).await;
}

/// A stream that is read event by event.
struct Followed {
    stream: TcpStream,
    unread: String,
    /// Of a body that comes compressed.
    decoder: Option<GzDecoder<Vec<u8>>>,
}

impl Followed {
    async fn open(address: SocketAddr, path: &str, encoding: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("a server");
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAccept-Encoding: {encoding}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        let head = String::from_utf8(head).expect("text").to_lowercase();
        assert!(
            head.starts_with("http/1.0 200") && head.contains("text/event-stream"),
            "{head}"
        );
        assert_eq!(header(&head, "content-encoding"), encoding);
        Self {
            stream,
            unread: String::new(),
            decoder: (!encoding.is_empty()).then(|| GzDecoder::new(Vec::new())),
        }
    }

    async fn until(&mut self, mark: &str) -> String {
        loop {
            if let Some((text, rest)) = self.unread.split_once(mark) {
                let (text, rest) = (text.to_owned(), rest.to_owned());
                self.unread = rest;
                return text;
            }
            let mut bytes = vec![0; 1 << 16];
            let count = self.stream.read(&mut bytes).await.expect("it goes on");
            assert!(count > 0, "the stream ended before {mark:?}: {}", self.unread);
            bytes.truncate(count);
            if let Some(decoder) = &mut self.decoder {
                decoder.write_all(&bytes).expect("gzip");
                decoder.flush().expect("gzip");
                bytes = std::mem::take(decoder.get_mut());
            }
            self.unread.push_str(std::str::from_utf8(&bytes).expect("text"));
        }
    }

    /// The next event's name and data.
    async fn next(&mut self) -> (String, Value) {
        loop {
            let event = self.until("\n\n").await;
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            // A comment keeps the connection open.
            let (Some(name), Some(data)) = (field("event:"), field("data:")) else {
                continue;
            };
            return (name.to_owned(), serde_json::from_str(data).expect("JSON"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_followed_by_what_changes_of_it_until_the_coordinator_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut options = options(folder.path());
    options.results = Some("runs/quickstart".into());
    let coordinator = Served::start(options).await;
    coordinator.submit().await;
    let address = coordinator.handle.http_address();
    let mut run = Followed::open(address, &format!("/api/v1/runs/{RUN}/stream"), "gzip").await;
    let mut all = Followed::open(address, "/api/v1/stream", "").await;
    let (name, state) = run.next().await;
    assert_eq!((name.as_str(), &state["phase"]["kind"]), ("state", &json!("preparing")));
    let (name, overview) = all.next().await;
    assert_eq!(
        (name.as_str(), &overview["runs"][RUN]["phase"]["kind"]),
        ("state", &json!("preparing"))
    );

    let driver = coordinator.handle.driver();
    driver.pause(&RunId(RUN.into()), "lunch").await.expect("paused");
    let (name, patch) = run.next().await;
    assert_eq!(
        (name.as_str(), &patch["phase"]),
        ("patch", &json!({ "kind": "paused", "reason": "lunch" }))
    );
    assert!(
        patch.get("spec_sha256").is_none(),
        "what stays is not told again: {patch}"
    );
    let (_, patch) = all.next().await;
    assert_eq!(patch["runs"][RUN]["phase"]["kind"], "paused");

    // One that is not there is refused at once.
    let (head, _) = ask(address, "GET", "/api/v1/runs/nothing/stream", "", "").await;
    assert!(head.starts_with("http/1.0 404"), "{head}");

    coordinator.shutdown.cancel();
    for followed in [&mut run, &mut all] {
        let (name, end) = followed.next().await;
        assert_eq!(name, "end");
        assert_eq!(
            end,
            json!({ "finished": false, "ended": false, "results": "runs/quickstart" })
        );
    }
    coordinator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_told_to_leave_over_http() {
    let folder = tempfile::tempdir().expect("a folder");
    let coordinator = Served::start(options(folder.path())).await;
    coordinator.submit_spec(spec()).await;
    let workers = whole_fleet(coordinator.handle.grpc_address());
    coordinator.until(|status| status.phase.is_ended()).await;
    let address = coordinator.handle.http_address();
    let (head, _) = ask(address, "POST", "/api/v1/drain", "", r#"{"all": true}"#).await;
    assert!(head.starts_with("http/1.0 400"), "{head}");
    let (head, body) = ask(address, "POST", "/api/v1/drain", "", "{}").await;
    assert!(head.starts_with("http/1.0 200"), "{head}");
    let told: Value = serde_json::from_slice(&body).expect("JSON");
    assert!(told["workers"].as_u64().is_some_and(|workers| workers <= 6), "{told}");
    // They leave by themselves.
    for worker in workers {
        worker.ended().await.expect("an orderly end");
    }
    coordinator.stop().await;
}
