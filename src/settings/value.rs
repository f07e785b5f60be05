// SPDX-License-Identifier: MIT OR Apache-2.0
//! A value of a key, from a file or a variable, as the kind that its key wants.

use crate::driver::network::PORT_DEFAULT;
use crate::fabric::tcp::address::{Address, Host, parse};
use std::time::Duration;

#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    Text(String),
    Number(i64),
    Switch(bool),
    List(Vec<Value>),
    /// From the environment: its kind is the key's. Lists are parted by commas.
    Loose(String),
    /// Something that no key wants; what it is called.
    Other(&'static str),
}

/// A value, or what is wrong with it.
pub type Wanted<T> = Result<T, String>;

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Text(text) | Value::Loose(text) => write!(f, "{text:?}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::Switch(switch) => write!(f, "{switch}"),
            Value::List(list) => {
                let all: Vec<String> = list.iter().map(Value::to_string).collect();
                write!(f, "[{}]", all.join(", "))
            }
            Value::Other(what) => write!(f, "{what}"),
        }
    }
}

impl Value {
    pub fn text(self) -> Wanted<String> {
        match self {
            Value::Text(text) | Value::Loose(text) => Ok(text),
            other => Err(format!("{other} is no text: give it in quotes")),
        }
    }

    pub fn number(self, least: u64, most: u64) -> Wanted<u64> {
        let number = match &self {
            Value::Number(number) => u64::try_from(*number).ok(),
            Value::Loose(text) => text.trim().parse().ok(),
            _ => None,
        };
        let fits = |number: &u64| (least..=most).contains(number);
        number.filter(fits).ok_or_else(|| format!("{self} must be a number, {least} to {most}"))
    }

    pub fn switch(self) -> Wanted<bool> {
        match &self {
            Value::Switch(switch) => Ok(*switch),
            Value::Loose(text) if text == "true" => Ok(true),
            Value::Loose(text) if text == "false" => Ok(false),
            _ => Err(format!("{self} must be true or false")),
        }
    }

    /// The position of the text among those.
    pub fn choice(self, among: &[&str]) -> Wanted<usize> {
        let text = match &self {
            Value::Text(text) | Value::Loose(text) => text.as_str(),
            _ => "",
        };
        let all = || among.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", ");
        let at = among.iter().position(|one| *one == text);
        at.ok_or_else(|| format!("{self} must be one of {}", all()))
    }

    pub fn time(self) -> Wanted<Duration> {
        let text = match &self {
            Value::Text(text) | Value::Loose(text) => text.as_str(),
            _ => "",
        };
        let wrong = || format!("{self} must be a time with its unit, as in \"10ms\" or \"1s\"");
        humantime::parse_duration(text).map_err(|_| wrong())
    }

    pub fn bytes(self, least: u64, most: u64) -> Wanted<u64> {
        let bytes = match &self {
            Value::Number(number) => u64::try_from(*number).ok(),
            Value::Text(text) | Value::Loose(text) => {
                text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64())
            }
            _ => None,
        };
        let fits = |bytes: &u64| (least..=most).contains(bytes);
        let wrong = || {
            format!("{self} must be a number of bytes, {least} to {most}, or a text as in \"4MiB\"")
        };
        bytes.filter(fits).ok_or_else(wrong)
    }

    fn list(self) -> Wanted<Vec<Value>> {
        match self {
            Value::List(list) => Ok(list),
            Value::Loose(text) => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                Ok(parts.map(|part| Value::Loose(part.into())).collect())
            }
            other => Err(format!("{other} must be a list, as in [1, 2]")),
        }
    }

    pub fn texts(self) -> Wanted<Vec<String>> {
        self.list()?.into_iter().map(Value::text).collect()
    }

    /// Addresses to listen on, as texts.
    pub fn listeners(self) -> Wanted<Vec<String>> {
        let all = self.texts()?;
        all.iter().try_for_each(|text| match parse(text, Some(PORT_DEFAULT)) {
            Ok(Address { host: Host::Name(_), .. }) => {
                Err(format!("`{text}` is a name: give an address of this host, or `*` for all"))
            }
            Ok(_) => Ok(()),
            Err(why) => Err(why.detail),
        })?;
        Ok(all)
    }

    /// Addresses that can be called, as texts.
    pub fn addresses(self) -> Wanted<Vec<String>> {
        let all = self.texts()?;
        all.iter().try_for_each(|text| callable(text))?;
        Ok(all)
    }

    /// A name, or a number that stands for it.
    pub fn name(self) -> Wanted<String> {
        match self {
            Value::Number(number) => Ok(number.to_string()),
            other => other.text(),
        }
    }

    pub fn names(self) -> Wanted<Vec<String>> {
        self.list()?.into_iter().map(Value::name).collect()
    }

    pub fn ranks(self) -> Wanted<Vec<u16>> {
        let rank = |value: Value| value.number(0, u16::MAX.into()).map(|rank| rank as u16);
        self.list()?.into_iter().map(rank).collect()
    }
}

/// Whether that is an address by which one process can be called.
pub fn callable(text: &str) -> Wanted<()> {
    let address = parse(text, Some(PORT_DEFAULT)).map_err(|why| why.detail)?;
    let is_any = match address.host {
        Host::Any => true,
        Host::V4(ip) => ip.is_unspecified(),
        Host::V6(ip, _) => ip.is_unspecified(),
        Host::Name(_) => false,
    };
    match address.port {
        _ if is_any => {
            Err(format!("`{text}` is where to listen; name one host that can be called"))
        }
        0 => Err(format!("`{text}`: nobody can be called at port 0")),
        _ => Ok(()),
    }
}
