//! The requirements of RFC 9112 (HTTP/1.1) that concern what `synchronous` implements: each sentence
//! with a MUST or MUST NOT, and the test that checks it.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::support::trials;

pub fn trials() -> Vec<Trial> {
    trials!("rfc9112": each_requirement_has_a_test)
}

/// Section, requirement, and the tests that check it.
const REQUIREMENTS: &[(&str, &str, &[&str])] = &[
    (
        "2.2",
        "a message is octets of a superset of US-ASCII",
        &["valid_requests", "complete_bodies"],
    ),
    ("2.2", "a sender generates no bare CR", &["invalid_urls", "fields_of_a_response"]),
    ("2.2", "a bare CR makes a message invalid", &["invalid_requests", "invalid_heads"]),
    ("2.2", "a client sends no CRLF before or after a request", &["the_request"]),
    ("2.2", "no space before the first field: sender", &["the_request", "fields_of_a_response"]),
    ("2.2", "no space before the first field: recipient", &["invalid_requests", "invalid_heads"]),
    ("3", "a target that is too long gets 414", &["limits"]),
    ("3.2", "a client sends Host, identical to the authority", &["the_request"]),
    ("3.2", "no Host, several, or an invalid one gets 400", &["invalid_requests"]),
    ("3.2.1", "a client sends path and query only, / if the path is empty", &["the_request"]),
    ("3.2.2", "a server accepts the absolute form, and then ignores Host", &["valid_requests"]),
    ("4", "a space follows the status code", &["fields_of_a_response"]),
    ("5.1", "whitespace before the colon gets 400", &["invalid_requests"]),
    ("5.2", "a sender folds no field", &["the_request", "fields_of_a_response"]),
    ("5.2", "a folded field in a request gets 400", &["invalid_requests"]),
    ("5.2", "a client reads a folded field as if it had spaces", &["complete_bodies"]),
    ("6.1", "a client sends no Transfer-Encoding to a server it does not know", &["the_request"]),
    ("6.1", "a server sends none in answer to HTTP/1.0", &["fields_of_a_response"]),
    ("6.1", "after a request with both a coding and a length, close", &["faulty_framing"]),
    ("6.1", "in HTTP/1.0 it is faulty", &["faulty_framing", "ambiguous_responses"]),
    ("6.2", "a sender never sends a coding and a length", &["the_request", "fields_of_a_response"]),
    ("6.3", "a response to HEAD has no body", &["fields_of_a_response"]),
    ("6.3", "1xx, 204 and 304 have no body", &["complete_bodies"]),
    ("6.3", "a request whose last coding is not chunked gets 400", &["faulty_framing"]),
    ("6.3", "an invalid length in a request gets 400", &["faulty_framing"]),
    ("6.3", "an invalid length in a response: discard it", &["ambiguous_responses"]),
    ("6.3", "fewer octets than the length: incomplete", &["incomplete_responses"]),
    ("7.1", "a recipient decodes chunks", &["complete_bodies"]),
    ("7.1", "a chunk size does not overflow", &["ambiguous_responses", "incomplete_responses"]),
    ("7.1.1", "a recipient ignores unknown chunk extensions", &["complete_bodies"]),
    ("7.1.2", "a trailer field does not change the head", &["complete_bodies"]),
    ("8", "a client does not take a part for a complete response", &["incomplete_responses"]),
    ("9.3", "a client that sends one request per connection sends close", &["the_request"]),
    ("9.3", "so does a server, in each response", &["fields_of_a_response"]),
    ("9.3", "a server reads the whole request or closes", &["a_refusal_is_not_lost"]),
    ("9.6", "after close, a client sends nothing, and closes", &["the_request"]),
    ("9.6", "after close, a server processes nothing, and closes", &["one_request_per_connection"]),
];

/// The comment of each test names the sections that it checks.
fn each_requirement_has_a_test() -> Result<()> {
    let sources = [
        include_str!("http_client.rs"),
        include_str!("http_responses.rs"),
        include_str!("http_server.rs"),
    ]
    .concat();
    for (section, requirement, tests) in REQUIREMENTS {
        for test in *tests {
            let sections = sections(&sources, test)?;
            let is_named = sections.iter().any(|it| it == section);
            ensure!(is_named, "{test} is not about {section}: {requirement}");
        }
    }
    Ok(())
}

/// Returns the numbers in the comment of the function `test`.
fn sections(sources: &str, test: &str) -> Result<Vec<String>> {
    let function = format!("\nfn {test}(");
    let (before, _) = sources.split_once(&function).context(function)?;
    let comment = before.lines().rev().take_while(|line| line.starts_with("///"));
    let numbers = |line: &str| -> Vec<String> {
        let words = line.split(|c: char| !c.is_ascii_digit() && c != '.');
        words.map(|word| word.trim_matches('.').to_owned()).collect()
    };
    Ok(comment.flat_map(numbers).collect())
}
