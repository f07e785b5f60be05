// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a TOML text to keys and values, with the lines they are on.

use super::keys::{ALL, SUBGROUP};
use super::value::Value;
use super::{Origin, Settings, nearest, remedy};
use crate::error::{Error, Status};
use crate::limits::SUBGROUPS_MAX;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

struct File<'a> {
    name: &'a str,
    text: &'a str,
}

/// Sets what the text says.
pub fn read(name: &str, text: &str, settings: &mut Settings) -> Result<(), Error> {
    let file = File { name, text };
    let table = DeTable::parse(text).map_err(|why| {
        let at = why.span().map_or(0, |span| span.start);
        file.error(at, why.message())
    })?;
    for (key, value) in table.get_ref() {
        let at = key.span().start;
        let key = key.get_ref().as_ref();
        match value.get_ref() {
            DeValue::Array(all) if key == "subgroup" => file.subgroups(all, settings)?,
            _ if key == "subgroup" => {
                return Err(file.error(at, "`subgroup` is a list of tables: write `[[subgroup]]`"));
            }
            DeValue::Table(section) if section.is_empty() && !sections().any(|of| of == key) => {
                let near = remedy(nearest(key, sections()), quoted);
                return Err(file.error(at, &format!("unknown section `{key}`{near}")));
            }
            DeValue::Table(section) => {
                for (name, value) in section {
                    let key = format!("{key}.{}", name.get_ref());
                    file.set(&key, name.span().start, value, settings)?;
                }
            }
            _ => file.set(key, at, value, settings)?,
        }
    }
    Ok(())
}

fn sections() -> impl Iterator<Item = &'static str> {
    ALL.iter().filter_map(|key| Some(key.name.split_once('.')?.0))
}

impl File<'_> {
    fn origin(&self, at: usize) -> Origin {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Origin::Line { file: self.name.into(), line }
    }

    fn error(&self, at: usize, why: &str) -> Error {
        Error::new(Status::Invalid, format!("{}: {why}", self.origin(at)))
    }

    fn set(
        &self,
        name: &str,
        at: usize,
        value: &Spanned<DeValue<'_>>,
        settings: &mut Settings,
    ) -> Result<(), Error> {
        let Some(key) = ALL.iter().find(|key| key.name == name) else {
            let near = remedy(nearest(name, ALL.iter().map(|key| key.name)), quoted);
            return Err(self.error(at, &format!("unknown key `{name}`{near}")));
        };
        settings.set(key, value_of(value.get_ref()), self.origin(at))
    }

    fn subgroups(&self, all: &toml::de::DeArray<'_>, settings: &mut Settings) -> Result<(), Error> {
        settings.config.subgroups.clear(); // those that the program has set before
        for (index, one) in all.iter().enumerate() {
            let at = one.span().start;
            if index >= SUBGROUPS_MAX {
                let why = format!("[[subgroup]] number {}: {SUBGROUPS_MAX} at the most", index + 1);
                return Err(self.error(at, &why));
            }
            let DeValue::Table(table) = one.get_ref() else {
                return Err(self.error(at, "a subgroup is a table: write `[[subgroup]]`"));
            };
            settings.config.subgroups.push(Default::default());
            settings.origins.insert(format!("subgroup.{index}"), self.origin(at));
            for (name, value) in table {
                let (at, name) = (name.span().start, name.get_ref().as_ref());
                let Some(key) = SUBGROUP.iter().find(|key| key.name == name) else {
                    let near = remedy(nearest(name, SUBGROUP.iter().map(|key| key.name)), quoted);
                    let why = format!("unknown key `{name}` in [[subgroup]]{near}");
                    return Err(self.error(at, &why));
                };
                let origin = self.origin(at);
                settings.set_in_subgroup(index, key, value_of(value.get_ref()), origin)?;
            }
        }
        Ok(())
    }
}

fn quoted(key: &str) -> String {
    format!("`{key}`")
}

fn value_of(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(digits) => {
            let number = i64::from_str_radix(digits.as_str(), digits.radix());
            number.map_or(Value::Other("a number beyond 64 bits"), Value::Number)
        }
        DeValue::Boolean(switch) => Value::Switch(*switch),
        DeValue::Array(all) => Value::List(all.iter().map(|one| value_of(one.get_ref())).collect()),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}
