//! Choosing one of many by number, by part of a name, or by id; a page at a time.

use std::future::Future;

use super::Error;
use super::terminal::Terminal;
use crate::cli::print_line;
use crate::itwin::{self, Listed, ListedImodel, ListedItwin};

/// Pages that can be turned; a search finds the rest.
const SKIP_MAX: usize = 1000;

/// An iTwin or an iModel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) id: String,
    pub(super) name: String,
}

impl From<ListedItwin> for Choice {
    fn from(listed: ListedItwin) -> Self {
        Self {
            id: listed.id,
            name: listed.display_name,
        }
    }
}

impl From<ListedImodel> for Choice {
    fn from(listed: ListedImodel) -> Self {
        Self {
            id: listed.id,
            name: listed.display_name,
        }
    }
}

/// A page of choices.
pub(super) fn choices<T: Into<Choice>>(listed: Listed<T>) -> Listed<Choice> {
    Listed {
        items: listed.items.into_iter().map(Into::into).collect(),
        more: listed.more,
    }
}

/// What an answer means, with a page in view.
#[derive(Debug, PartialEq, Eq)]
enum Answer<'a> {
    Chosen(Choice),
    NextPage,
    FirstPage,
    Search(&'a str),
}

fn meaning<'a>(answer: &'a str, page: &Listed<Choice>, first: usize) -> Answer<'a> {
    if answer.is_empty() {
        return match (page.items.as_slice(), page.more) {
            ([only], false) if first == 1 => Answer::Chosen(only.clone()),
            (_, true) => Answer::NextPage,
            (_, false) => Answer::FirstPage,
        };
    }
    let number = answer.parse().ok().and_then(|number: usize| {
        let at = number.checked_sub(first)?;
        page.items.get(at)
    });
    let named = page
        .items
        .iter()
        .find(|one| one.id.eq_ignore_ascii_case(answer) || one.name.eq_ignore_ascii_case(answer));
    match number.or(named) {
        Some(choice) => Answer::Chosen(choice.clone()),
        // A search finds no ids.
        None if uuid::Uuid::parse_str(answer).is_ok() => Answer::Chosen(Choice {
            id: answer.to_lowercase(),
            name: answer.to_lowercase(),
        }),
        None => Answer::Search(answer),
    }
}

/// Lets the user choose; None if there is nothing to choose from. `load` gives a page of a search.
pub(super) async fn choose<L, F>(
    terminal: &Terminal,
    noun: &str,
    load: L,
) -> Result<Option<Choice>, Error>
where
    L: Fn(Option<String>, usize) -> F,
    F: Future<Output = Result<Listed<Choice>, itwin::Error>>,
{
    let (mut search, mut skip): (Option<String>, usize) = (None, 0);
    loop {
        let page = load(search.clone(), skip).await?;
        if page.items.is_empty() {
            match search.take() {
                Some(text) => print_line(&format!("  no {noun} has {text:?} in its name")),
                None if skip == 0 => return Ok(None),
                None => {}
            }
            skip = 0;
            continue;
        }
        let width = page.items.iter().map(|one| one.name.chars().count());
        let width = width.max().unwrap_or_default().min(60);
        for (at, one) in page.items.iter().enumerate() {
            print_line(&format!(
                "  {:>3}  {:<width$}  {}",
                skip + at + 1,
                one.name,
                one.id
            ));
        }
        let enter = match (page.items.len(), page.more, skip) {
            (1, false, 0) => "Enter for this one",
            (_, true, _) => "Enter for more",
            (_, false, 0) => "",
            (_, false, _) => "Enter for the first page",
        };
        let prompt = match enter {
            "" => format!("{noun} (number, id, or part of a name to search): "),
            enter => format!("{noun} (number, id, part of a name to search, {enter}): "),
        };
        let answer = terminal.line(&prompt)?;
        match meaning(&answer, &page, skip + 1) {
            Answer::Chosen(choice) => return Ok(Some(choice)),
            Answer::NextPage if skip + page.items.len() < SKIP_MAX => skip += page.items.len(),
            Answer::NextPage => print_line("  there are more: enter part of the name"),
            Answer::FirstPage => (search, skip) = (None, 0),
            Answer::Search(text) => (search, skip) = (Some(text.to_owned()), 0),
        }
    }
}

/// The one with this id or name, of the first page of a search for it.
pub(super) fn only(wanted: &str, noun: &'static str, found: Vec<Choice>) -> Result<Choice, Error> {
    let is_it =
        |one: &Choice| one.id.eq_ignore_ascii_case(wanted) || one.name.eq_ignore_ascii_case(wanted);
    let mut same: Vec<Choice> = found.into_iter().filter(is_it).collect();
    match same.len() {
        0 => Err(Error::NoneNamed {
            noun,
            wanted: wanted.to_owned(),
        }),
        1 => Ok(same.remove(0)),
        _ => Err(Error::SeveralNamed {
            noun,
            wanted: wanted.to_owned(),
            ids: same.into_iter().map(|one| one.id).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_number_a_name_or_a_search() {
        let one = |id: &str, name: &str| Choice {
            id: id.to_owned(),
            name: name.to_owned(),
        };
        let (a, b) = (one("id-a", "North"), one("id-b", "2024"));
        let page = |items: &[&Choice], more| Listed {
            items: items.iter().copied().cloned().collect(),
            more,
        };
        let two = page(&[&a, &b], false);
        let id = "11111111-2222-4333-8444-555555555555";
        let chosen = |choice: &Choice| Answer::Chosen(choice.clone());
        for (answer, page, first, expected) in [
            ("1", &two, 1, chosen(&a)),
            ("22", &two, 21, chosen(&b)),
            ("id-B", &two, 1, chosen(&b)),
            ("north", &two, 1, chosen(&a)),
            // A number that is no place in the list can be a name.
            ("2024", &two, 1, chosen(&b)),
            ("2025", &two, 1, Answer::Search("2025")),
            ("0", &two, 1, Answer::Search("0")),
            ("nor", &two, 1, Answer::Search("nor")),
            (id, &two, 1, chosen(&one(id, id))),
            ("", &two, 1, Answer::FirstPage),
            ("", &page(&[&a], false), 1, chosen(&a)),
            ("", &page(&[&a], false), 21, Answer::FirstPage),
            ("", &page(&[&a, &b], true), 1, Answer::NextPage),
        ] {
            assert_eq!(meaning(answer, page, first), expected, "{answer:?}");
        }
    }
}
