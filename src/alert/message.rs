//! The text of a message, in the formats of the receivers. File names are always plain text in it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::problems::{AlertProblem, Problems};
use super::scheduler::Event;

use crate::shell;

/// Problems that one message lists.
const SHOWN: usize = 20;

/// Slack takes no longer text in a section. Source: `docs.slack.dev/reference/block-kit/blocks/section-block`
const SLACK_MAX: usize = 2900;

/// A message, independent of its format.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) alert: &'a str,
    pub(super) host: &'a str,
    pub(super) event: Event,
    pub(super) at: Timestamp,
    /// The problems to list: the new ones, or all.
    pub(super) shown: Vec<&'a AlertProblem>,
    pub(super) problems: &'a Problems,
}

impl Message<'_> {
    fn total(&self) -> u64 {
        self.problems.list.len() as u64 + self.problems.more
    }

    /// One line.
    pub(super) fn title(&self) -> String {
        let host = self.host;
        let files = self.shown.iter().filter(|one| one.kind == "file").count();
        let issues = self.shown.iter().filter(|one| one.kind == "issues").count();
        let page = self.shown.iter().filter(|one| one.kind == "page").count();
        let ledger = self.shown.iter().filter(|one| one.kind == "ledger").count();
        let others = self.shown.len() - files - issues - page - ledger;
        let mut parts = Vec::new();
        match files {
            0 => {}
            1 => parts.push("1 file failed".to_owned()),
            _ => parts.push(format!("{files} files failed")),
        }
        match issues {
            0 => {}
            1 => parts.push("1 file synchronized with issues".to_owned()),
            _ => parts.push(format!("{issues} files synchronized with issues")),
        }
        match others {
            0 => {}
            1 => parts.push("1 folder or watch needs attention".to_owned()),
            _ => parts.push(format!("{others} folders or watches need attention")),
        }
        if page > 0 {
            parts.push("the status page cannot be served".to_owned());
        }
        if ledger > 0 {
            parts.push("the ledger is not available".to_owned());
        }
        if parts.is_empty() {
            parts.push(format!("{} problems", self.total()));
        }
        let what = parts.join(", ");
        match self.event {
            Event::NewProblem => format!("itwin-syncd on {host}: {what}"),
            Event::Reminder => format!("itwin-syncd on {host}: reminder: {what}"),
            Event::Resolved => {
                format!("itwin-syncd on {host}: resolved: no problems left")
            }
            Event::Test => format!("itwin-syncd on {host}: test of alert {:?}", self.alert),
        }
    }

    /// A line or two for each problem.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.event == Event::Test {
            lines.push("nothing is wrong: sent by `itwin-syncd alert test`".to_owned());
        }
        for problem in self.shown.iter().take(SHOWN) {
            lines.push(format!("{}: {}", problem.place(), problem.reason));
            if let Some(hint) = &problem.hint {
                lines.push(format!("  hint: {hint}"));
            }
        }
        let more = self.total() - self.shown.len().min(SHOWN) as u64;
        if more > 0 {
            lines.push(format!(
                "and {more} more; run `{}` for all of them",
                shell::command(["status"])
            ));
        }
        lines
    }

    /// For a program's standard input.
    pub(super) fn text(&self) -> String {
        let mut text = self.title();
        text.push('\n');
        for line in self.lines() {
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// The JSON format. `version` is incremented when a field changes its meaning or is removed.
    pub(super) fn json(&self) -> Value {
        json!({
            "version": 1,
            "event": self.event.as_str(),
            "alert": self.alert,
            "host": self.host,
            "at": self.at,
            "title": self.title(),
            "total": self.total(),
            "problems": self.shown.iter().take(SHOWN).collect::<Vec<_>>(),
        })
    }

    /// For a workflow of Teams.
    pub(super) fn teams(&self) -> Value {
        teams(&self.title(), &self.lines())
    }

    /// For an incoming webhook of Slack.
    pub(super) fn slack(&self) -> Value {
        slack(&self.title(), &self.text())
    }
}

/// An adaptive card of text blocks that interpret no markup.
/// Source: `learn.microsoft.com/connectors/teams` (webhook trigger), `adaptivecards.io/explorer/RichTextBlock.html`
pub(super) fn teams(title: &str, lines: &[String]) -> Value {
    let block = |text: &str, weight: &str| {
        json!({
            "type": "RichTextBlock",
            "inlines": [{"type": "TextRun", "text": text, "weight": weight}],
        })
    };
    let mut body = vec![block(title, "Bolder")];
    body.extend(lines.iter().map(|line| block(line, "Default")));
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "body": body,
            },
        }],
    })
}

/// Blocks of plain text. The text beside them is for notifications; three characters mean something in it.
/// Source: `docs.slack.dev/messaging/sending-messages-using-incoming-webhooks`
pub(super) fn slack(title: &str, text: &str) -> Value {
    let escaped = |text: &str| {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
    };
    let text: String = text.chars().take(SLACK_MAX).collect();
    json!({
        "text": escaped(title),
        "blocks": [{"type": "section", "text": {"type": "plain_text", "text": text, "emoji": false}}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_message(event: Event, check: impl FnOnce(&Message<'_>)) {
        let problem = |path: &str| AlertProblem {
            key: path.to_owned(),
            kind: "file",
            severe: true,
            watch: "north".to_owned(),
            failure: None,
            path: Some(path.to_owned()),
            reason: "it is empty".to_owned(),
            hint: Some("save it again".to_owned()),
        };
        let mut problems = Problems {
            list: vec![problem("a.ifc"), problem("<!channel> [b](http://x).ifc")],
            more: 3,
        };
        if matches!(event, Event::Resolved | Event::Test) {
            problems = Problems::default();
        }
        check(&Message {
            alert: "team",
            host: "cad1",
            event,
            at: Timestamp::UNIX_EPOCH,
            shown: problems.list.iter().collect(),
            problems: &problems,
        });
    }

    #[test]
    fn texts_of_all_events() {
        let mut texts = String::new();
        for event in [
            Event::NewProblem,
            Event::Reminder,
            Event::Resolved,
            Event::Test,
        ] {
            // A new event needs an entry above.
            match event {
                Event::NewProblem | Event::Reminder | Event::Resolved | Event::Test => {}
            }
            with_message(event, |message| {
                texts += &format!("{}\n", message.text());
                let json = message.json();
                assert_eq!(json["event"], event.as_str());
                if matches!(event, Event::NewProblem | Event::Reminder) {
                    assert_eq!(json["total"], 5);
                    assert_eq!(json["problems"][0]["path"], "a.ifc");
                }
            });
        }
        insta::assert_snapshot!(texts);
    }

    #[test]
    fn file_names_are_never_markup() {
        with_message(Event::NewProblem, |message| {
            let slack = message.slack();
            assert_eq!(slack["blocks"][0]["text"]["type"], "plain_text");
            assert!(!slack["text"].as_str().unwrap().contains('<'));
            let teams = message.teams();
            let body = teams["attachments"][0]["content"]["body"]
                .as_array()
                .unwrap();
            assert!(body.iter().all(|block| block["type"] == "RichTextBlock"));
        });
    }
}
