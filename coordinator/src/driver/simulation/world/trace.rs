//! What a failure prints of the messages and events before it.

use super::*;

pub(super) fn brief(request: &Request) -> String {
    match request {
        Request::Complete {
            worker, key, honest, ..
        } => format!("complete by {worker}: {} #{} honest {honest}", key.unit, key.fence),
        Request::Submit(run) => format!("submit {run}"),
        other => format!("{other:?}"),
    }
}

pub(super) fn brief_response(response: &Response) -> String {
    match response {
        Response::Leased(grant) => format!("leased {} #{}", grant.unit, grant.fence),
        Response::Failed(code) if passes(*code) => format!("failed for now: {code:?}"),
        other => format!("{other:?}"),
    }
}

pub(super) fn brief_event(event: &Event) -> String {
    match event {
        Event::Completed {
            unit, worker, fence, ..
        } => format!("completed {unit} #{fence} by {worker}"),
        other => format!("{other:?}"),
    }
}
