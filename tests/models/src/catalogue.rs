//! Finding variants by name.

use super::systems::{self, System};
use super::variant::Variant;
use pv_harness::error::{Error, Result};

/// What a name means.
pub struct Picked {
    /// Its system.
    pub system: usize,
    /// The variant's place in it.
    pub variant: usize,
}

/// Every variant, or those that `name` means: a system, `SYSTEM/VARIANT`, or a variant's name
/// alone if only one system has it.
///
/// # Errors
/// [`Error::Usage`] with the nearest names for one that means nothing.
pub fn pick(systems: &[System], name: Option<&str>) -> Result<Vec<Picked>> {
    let all = (systems.iter().enumerate()).flat_map(|(system, s)| {
        (s.variants.iter().enumerate()).map(move |(at, variant)| {
            let place = Picked {
                system,
                variant: at,
            };
            (place, variant)
        })
    });
    let picked: Vec<Picked> = all
        .filter(|(_, variant)| name.is_none_or(|name| means(name, variant)))
        .map(|(place, _)| place)
        .collect();
    match name {
        Some(name) if picked.is_empty() => Err(unknown(systems, name)),
        _ => Ok(picked),
    }
}

/// The one variant that a name means.
///
/// # Errors
/// [`Error::Usage`] if none is meant, or several.
pub fn pick_one(systems: &[System], name: &str) -> Result<Picked> {
    let mut picked = pick(systems, Some(name))?;
    match picked.pop() {
        Some(one) if picked.is_empty() => Ok(one),
        _ => Err(Error::Usage(format!(
            "`{name}` means {} variants; name one as SYSTEM/VARIANT: {}",
            picked.len() + 1,
            ids(systems, |id| id.starts_with(name) || id.ends_with(name)).join(", ")
        ))),
    }
}

fn means(name: &str, variant: &Variant) -> bool {
    name == variant.system || name == variant.name || name == variant.id()
}

fn ids(systems: &[System], wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let variants = systems.iter().flat_map(|system| &system.variants);
    variants.map(Variant::id).filter(|id| wanted(id)).collect()
}

fn unknown(systems: &[System], name: &str) -> Error {
    let known = ids(systems, |_| true);
    let likeness = |id: &String| {
        let alone = id
            .split_once('/')
            .map_or(id.as_str(), |(_, variant)| variant);
        strsim::jaro_winkler(name, id).max(strsim::jaro_winkler(name, alone))
    };
    let nearest = known
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let meant = nearest.map_or(String::new(), |id| format!(" Did you mean `{id}`?"));
    let mut message = format!("there is no model `{name}`.{meant} Known are:");
    for system in systems::names(systems) {
        message += &format!("\n  {system}: ");
        let own: Vec<String> = ids(systems, |id| id.starts_with(&format!("{system}/")));
        let names: Vec<&str> = own
            .iter()
            .filter_map(|id| Some(id.split_once('/')?.1))
            .collect();
        message += &names.join(", ");
    }
    Error::Usage(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_others_answered_with_the_nearest() {
        let systems = systems::all();
        assert_eq!(pick(&systems, Some("gntdev/sync")).unwrap().len(), 1);
        assert_eq!(pick(&systems, Some("recursive-read")).unwrap().len(), 1);
        assert_eq!(
            pick(&systems, Some("mpx")).unwrap().len(),
            systems[4].variants.len()
        );
        let Err(error) = pick(&systems, Some("gntdev/snyc")) else {
            panic!()
        };
        let text = error.to_string();
        assert!(text.contains("Did you mean `gntdev/sync`?"), "{text}");
        assert!(text.contains("pfnmap-object-lock"), "{text}");
        let Err(error) = pick_one(&systems, "type1") else {
            panic!()
        };
        assert!(error.to_string().contains("type1/file"));
    }

    #[test]
    fn names_are_unique_and_there_are_enough() {
        let systems = systems::all();
        let mut all = ids(&systems, |_| true);
        assert!(all.len() >= 30, "{}", all.len());
        all.sort();
        all.dedup();
        let variants: usize = systems.iter().map(|s| s.variants.len()).sum();
        assert_eq!(all.len(), variants);
    }
}
