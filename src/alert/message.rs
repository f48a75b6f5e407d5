//! The words of a message, and the shapes that receivers want. Names of files are only ever plain text in them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::scheduler::Event;
use super::{Trouble, Troubles};

/// Problems that one message tells of.
const SHOWN: usize = 20;

/// Slack takes no longer text in a section. Source: `docs.slack.dev/reference/block-kit/blocks/section-block`
const SLACK_MAX: usize = 2900;

/// A message before it takes a shape.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) alert: &'a str,
    pub(super) host: &'a str,
    pub(super) event: Event,
    pub(super) at: Timestamp,
    /// What is told first: what is new, or all there is.
    pub(super) shown: Vec<&'a Trouble>,
    pub(super) troubles: &'a Troubles,
}

impl Message<'_> {
    fn total(&self) -> u64 {
        self.troubles.list.len() as u64 + self.troubles.more
    }

    /// One line.
    pub(super) fn title(&self) -> String {
        let host = self.host;
        let files = self.shown.iter().filter(|one| one.kind == "file").count();
        let issues = self.shown.iter().filter(|one| one.kind == "issues").count();
        let others = self.shown.len() - files - issues;
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
            1 => parts.push("1 folder or watch needs a look".to_owned()),
            _ => parts.push(format!("{others} folders or watches need a look")),
        }
        if parts.is_empty() {
            parts.push(format!("{} problems", self.total()));
        }
        let what = parts.join(", ");
        match self.event {
            Event::Trouble => format!("itwin-syncd on {host}: {what}"),
            Event::Reminder => format!("itwin-syncd on {host}: still, {what}"),
            Event::AllClear => {
                format!("itwin-syncd on {host}: all clear, nothing is wrong any more")
            }
        }
    }

    /// A line or two for each problem.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for trouble in self.shown.iter().take(SHOWN) {
            lines.push(format!("{}: {}", trouble.place(), trouble.reason));
            if let Some(hint) = &trouble.hint {
                lines.push(format!("  to do: {hint}"));
            }
        }
        let more = self.total() - self.shown.len().min(SHOWN) as u64;
        if more > 0 {
            lines.push(format!("and {more} more; `itwin-syncd status` tells all"));
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

    /// Our own shape. `version` rises when a field changes its meaning or goes.
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

    /// An adaptive card whose text knows no markup.
    /// Source: `learn.microsoft.com/connectors/teams` (webhook trigger), `adaptivecards.io/explorer/RichTextBlock.html`
    pub(super) fn teams(&self) -> Value {
        let block = |text: &str, weight: &str| {
            json!({
                "type": "RichTextBlock",
                "inlines": [{"type": "TextRun", "text": text, "weight": weight}],
            })
        };
        let mut body = vec![block(&self.title(), "Bolder")];
        body.extend(self.lines().iter().map(|line| block(line, "Default")));
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
    pub(super) fn slack(&self) -> Value {
        let escaped = |text: &str| {
            text.replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;")
        };
        let text: String = self.text().chars().take(SLACK_MAX).collect();
        json!({
            "text": escaped(&self.title()),
            "blocks": [{"type": "section", "text": {"type": "plain_text", "text": text, "emoji": false}}],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(event: Event, check: impl FnOnce(&Message<'_>)) {
        let trouble = |path: &str| Trouble {
            key: path.to_owned(),
            kind: "file",
            severe: true,
            watch: "north".to_owned(),
            failure: None,
            path: Some(path.to_owned()),
            reason: "it is empty".to_owned(),
            hint: Some("save it again".to_owned()),
        };
        let troubles = Troubles {
            list: vec![trouble("a.ifc"), trouble("<!channel> [b](http://x).ifc")],
            more: 3,
        };
        check(&Message {
            alert: "team",
            host: "cad1",
            event,
            at: Timestamp::UNIX_EPOCH,
            shown: troubles.list.iter().collect(),
            troubles: &troubles,
        });
    }

    #[test]
    fn a_message_says_what_where_why_and_what_to_do() {
        told(Event::Trouble, |message| {
            assert_eq!(
                message.text(),
                "itwin-syncd on cad1: 2 files failed\n\
                 north: \"a.ifc\": it is empty\n  to do: save it again\n\
                 north: \"<!channel> [b](http://x).ifc\": it is empty\n  to do: save it again\n\
                 and 3 more; `itwin-syncd status` tells all\n"
            );
            let json = message.json();
            assert_eq!(
                (&json["event"], &json["total"]),
                (&json!("trouble"), &json!(5))
            );
            assert_eq!(json["problems"][0]["path"], "a.ifc");
        });
        told(Event::AllClear, |message| {
            assert_eq!(
                message.title(),
                "itwin-syncd on cad1: all clear, nothing is wrong any more"
            );
        });
    }

    #[test]
    fn names_of_files_are_no_markup_anywhere() {
        told(Event::Trouble, |message| {
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
