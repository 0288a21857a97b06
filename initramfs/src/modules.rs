//! The kernel's module tables: which modules exist, what each needs, and which driver a device asks
//! for by its alias.
//!
//! At build time they are gathered from the modules' own `.modinfo`, since a kernel package comes
//! without the tables that `depmod` makes at installation. Trimmed to the modules of an image they
//! are written in depmod's formats (modules.dep(5)), and the agent reads them from there. Loading is
//! the agent's; nothing here touches a kernel.

use crate::{alias, elf};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Largest table or module read; the largest of Debian's modules has 5 MB.
const FILE_LIMIT: u64 = 64 << 20;
/// Deepest directory below `kernel/`.
const DEPTH_LIMIT: usize = 16;

/// Why the tables could not be made.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A file or directory could not be read.
    #[error("reading {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A module is not the ELF file it should be.
    #[error("module {}", path.display())]
    Module {
        /// Which.
        path: PathBuf,
        /// Why.
        source: elf::ElfError,
    },
    /// A line of a table has another form.
    #[error("{table}: {line:?} is not of its form")]
    Line {
        /// File name.
        table: &'static str,
        /// The line.
        line: String,
    },
}

/// Names that are neither a module, nor built in, nor an alias of one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the kernel has no such modules: {}", .0.join(", "))]
pub struct Unknown(pub Vec<String>);

/// One loadable module.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Module {
    /// Below the directory of the kernel version, such as `kernel/drivers/block/loop.ko`.
    path: String,
    /// Modules that must be loaded before, by name.
    needs: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct SoftDeps {
    pre: Vec<String>,
    post: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Alias {
    pattern: String,
    module: String,
}

/// All tables of one kernel version. Module names are in the form that `/proc/modules` uses: with
/// `_`, never `-`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    modules: BTreeMap<String, Module>,
    aliases: Vec<Alias>,
    softdeps: BTreeMap<String, SoftDeps>,
    builtin: BTreeSet<String>,
    builtin_aliases: Vec<String>,
}

/// The tables in the text forms of modules.dep(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// `modules.dep`: `path: path path ...`, what is loaded first stands last.
    pub dep: String,
    /// `modules.alias`: `alias PATTERN MODULE`.
    pub alias: String,
    /// `modules.softdep`: `softdep MODULE pre: A B post: C`.
    pub softdep: String,
    /// `modules.builtin`: one path a line.
    pub builtin: String,
}

/// File names of [`Tables`] in the directory of the kernel version.
pub const TABLE_NAMES: [&str; 4] =
    ["modules.dep", "modules.alias", "modules.softdep", "modules.builtin"];

impl Tables {
    /// Name and text of each table.
    pub fn files(&self) -> [(&'static str, &str); 4] {
        let [dep, alias, softdep, builtin] = TABLE_NAMES;
        [(dep, &self.dep), (alias, &self.alias), (softdep, &self.softdep), (builtin, &self.builtin)]
    }

    /// Reads the tables from `dir`, such as `/lib/modules/6.1.0-1-amd64`. A missing one is empty:
    /// a kernel may have no softdeps.
    pub fn read(dir: &Path) -> Result<Self, IndexError> {
        let [dep, alias, softdep, builtin] = TABLE_NAMES.map(|name| optional_text(dir, name));
        Ok(Self { dep: dep?, alias: alias?, softdep: softdep?, builtin: builtin? })
    }
}

/// A module's name from its path: base name up to the first dot, with `_` for `-`.
pub fn name_of(path: &str) -> String {
    let base = path.rsplit('/').next().unwrap_or(path);
    normal(base.split('.').next().unwrap_or(base))
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

impl Index {
    /// Gathers the tables from the modules themselves: all below `dir/kernel`, in the order of
    /// `modules.order`, which is that of precedence.
    pub fn scan(dir: &Path) -> Result<Self, IndexError> {
        let mut paths = Vec::new();
        find_modules(dir, "kernel", DEPTH_LIMIT, &mut paths)?;
        let order = optional_text(dir, "modules.order")?;
        let rank: BTreeMap<&str, usize> = order.lines().zip(0..).collect();
        paths.sort_by_key(|path| {
            (rank.get(path.as_str()).copied().unwrap_or(usize::MAX), path.clone())
        });

        let mut index = Self::default();
        for path in paths {
            let full = dir.join(&path);
            let info = elf::modinfo(&bytes(&full)?)
                .map_err(|source| IndexError::Module { path: full, source })?;
            index.add_module(path, &info);
        }
        index.add_builtin(&optional_text(dir, "modules.builtin")?);
        // NUL separated `module.key=value`.
        for field in optional_text(dir, "modules.builtin.modinfo")?.split('\0') {
            let alias = field.split_once('=').filter(|(key, _)| key.ends_with(".alias"));
            index.builtin_aliases.extend(alias.map(|(_, value)| value.to_owned()));
        }
        Ok(index)
    }

    /// Reads the tables from their text forms. `alias` lines and comments as depmod writes them.
    pub fn parse(tables: &Tables) -> Result<Self, IndexError> {
        let mut index = Self::default();
        for line in lines(&tables.dep) {
            let (path, needs) = line.split_once(':').ok_or_else(|| bad("modules.dep", line))?;
            let needs = needs.split_whitespace().rev().map(name_of).collect();
            index.modules.insert(name_of(path), Module { path: path.to_owned(), needs });
        }
        for line in lines(&tables.alias) {
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("alias"), Some(pattern), Some(module)) => index
                    .aliases
                    .push(Alias { pattern: pattern.to_owned(), module: normal(module) }),
                _ => return Err(bad("modules.alias", line)),
            }
        }
        for line in lines(&tables.softdep) {
            let rest = line.strip_prefix("softdep ").ok_or_else(|| bad("modules.softdep", line))?;
            let (module, deps) = rest.trim().split_once(' ').unwrap_or((rest, ""));
            index.add_softdeps(module, deps);
        }
        index.add_builtin(&tables.builtin);
        Ok(index)
    }

    /// Writes the text forms. Each module's list in `modules.dep` is complete and in the order
    /// opposite to loading.
    pub fn tables(&self) -> Tables {
        let mut tables = Tables::default();
        // Writing to a String cannot fail.
        for (name, module) in &self.modules {
            let mut order = Vec::new();
            self.visit_hard(name, &mut BTreeSet::new(), &mut order);
            let needs = order.iter().rev().skip(1).filter_map(|need| self.modules.get(*need));
            let needs: String = needs.map(|need| format!(" {}", need.path)).collect();
            let _ = writeln!(tables.dep, "{}:{needs}", module.path);
        }
        for Alias { pattern, module } in &self.aliases {
            let _ = writeln!(tables.alias, "alias {pattern} {module}");
        }
        for (name, SoftDeps { pre, post }) in &self.softdeps {
            let part = |label: &str, names: &[String]| match names {
                [] => String::new(),
                _ => format!(" {label}: {}", names.join(" ")),
            };
            let _ = writeln!(
                tables.softdep,
                "softdep {name}{}{}",
                part("pre", pre),
                part("post", post)
            );
        }
        for name in &self.builtin {
            let _ = writeln!(tables.builtin, "kernel/{name}.ko");
        }
        tables
    }

    /// The modules behind a name or an alias; none if it is built in, `None` if it is unknown.
    pub fn resolve(&self, name_or_alias: &str) -> Option<Vec<&str>> {
        let name = normal(name_or_alias);
        if let Some((name, _)) = self.modules.get_key_value(&name) {
            return Some(vec![name.as_str()]);
        }
        if self.builtin.contains(&name) {
            return Some(Vec::new());
        }
        let fits = |pattern: &str| alias::matches(&normal_pattern(pattern), &name);
        let mut found: Vec<&str> = Vec::new();
        for Alias { pattern, module } in &self.aliases {
            if !found.contains(&module.as_str())
                && self.modules.contains_key(module)
                && fits(pattern)
            {
                found.push(module);
            }
        }
        let known = !found.is_empty() || self.builtin_aliases.iter().any(|pattern| fits(pattern));
        known.then_some(found)
    }

    /// Everything that must be loaded for `names_or_aliases`, each before what needs it, soft
    /// dependencies at their place. Soft dependencies that do not exist are left out, as modprobe
    /// does.
    pub fn closure<S: AsRef<str>>(&self, names_or_aliases: &[S]) -> Result<Vec<&str>, Unknown> {
        let mut seen = BTreeSet::new();
        let mut order = Vec::new();
        let mut unknown = Vec::new();
        for wanted in names_or_aliases.iter().map(AsRef::as_ref) {
            match self.resolve(wanted) {
                Some(names) => {
                    names.into_iter().for_each(|name| self.visit(name, &mut seen, &mut order));
                }
                None => unknown.push(wanted.to_owned()),
            }
        }
        if unknown.is_empty() { Ok(order) } else { Err(Unknown(unknown)) }
    }

    /// The names of all modules below a directory such as `kernel/drivers/ata`.
    pub fn below(&self, dir: &str) -> Vec<&str> {
        let inside = |path: &str| {
            path.strip_prefix(dir.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'))
        };
        let modules = self.modules.iter().filter(|(_, module)| inside(&module.path));
        modules.map(|(name, _)| name.as_str()).collect()
    }

    /// Path of a module below the directory of the kernel version.
    pub fn path(&self, name: &str) -> Option<&str> {
        self.modules.get(name).map(|module| module.path.as_str())
    }

    /// Number of loadable modules.
    pub fn len(&self) -> usize {
        self.modules.len()
    }

    /// Whether there is no loadable module.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// The tables without all that belongs to other modules than `names`, whose files' names get a
    /// suffix.
    pub fn trimmed(&self, names: &[&str], suffix: &str) -> Self {
        let keep = |name: &String| names.contains(&name.as_str());
        let renamed = |module: &Module| Module {
            path: format!("{}{suffix}", module.path),
            needs: module.needs.clone(),
        };
        let modules = self.modules.iter().filter(|(name, _)| keep(name));
        Self {
            modules: modules.map(|(name, module)| (name.clone(), renamed(module))).collect(),
            aliases: self.aliases.iter().filter(|alias| keep(&alias.module)).cloned().collect(),
            softdeps: self.softdeps.clone().into_iter().filter(|(name, _)| keep(name)).collect(),
            builtin: self.builtin.clone(),
            builtin_aliases: Vec::new(),
        }
    }

    fn add_module(&mut self, path: String, info: &BTreeMap<String, Vec<String>>) {
        let name = name_of(&path);
        let values = |key: &str| info.get(key).map(Vec::as_slice).unwrap_or_default();
        let needs = values("depends")
            .iter()
            .flat_map(|list| list.split(','))
            .filter(|need| !need.is_empty())
            .map(normal)
            .collect();
        for pattern in values("alias") {
            // depmod leaves out what its line format cannot hold.
            if !pattern.contains(char::is_whitespace) {
                self.aliases.push(Alias { pattern: pattern.clone(), module: name.clone() });
            }
        }
        for deps in values("softdep") {
            self.add_softdeps(&name, deps);
        }
        self.modules.insert(name, Module { path, needs });
    }

    fn add_softdeps(&mut self, module: &str, deps: &str) {
        let entry = self.softdeps.entry(normal(module)).or_default();
        let mut list = None;
        for word in deps.split_whitespace() {
            match (word, &mut list) {
                ("pre:", _) => list = Some(true),
                ("post:", _) => list = Some(false),
                (name, Some(true)) => entry.pre.push(name.to_owned()),
                (name, Some(false)) => entry.post.push(name.to_owned()),
                // A name before any label means nothing to modprobe either.
                (_, None) => {}
            }
        }
    }

    fn add_builtin(&mut self, text: &str) {
        self.builtin.extend(lines(text).map(name_of));
    }

    fn visit<'i>(&'i self, name: &'i str, seen: &mut BTreeSet<&'i str>, order: &mut Vec<&'i str>) {
        let Some(module) = self.modules.get(name) else { return };
        // Marked before its needs are visited: a circle of soft dependencies ends here.
        if !seen.insert(name) {
            return;
        }
        let soft = self.softdeps.get(name);
        let (pre, post) = soft.map_or((&[][..], &[][..]), |soft| (&soft.pre, &soft.post));
        for wanted in pre.iter().chain(&module.needs) {
            for need in self.resolve(wanted).unwrap_or_default() {
                self.visit(need, seen, order);
            }
        }
        order.push(name);
        for wanted in post {
            for next in self.resolve(wanted).unwrap_or_default() {
                self.visit(next, seen, order);
            }
        }
    }

    fn visit_hard<'i>(
        &'i self,
        name: &'i str,
        seen: &mut BTreeSet<&'i str>,
        order: &mut Vec<&'i str>,
    ) {
        let Some(module) = self.modules.get(name).filter(|_| seen.insert(name)) else { return };
        for need in &module.needs {
            self.visit_hard(need, seen, order);
        }
        order.push(name);
    }
}

/// `_` for `-` outside of brackets, as libkmod compares aliases.
fn normal_pattern(pattern: &str) -> Cow<'_, str> {
    if !pattern.contains('-') {
        return Cow::Borrowed(pattern);
    }
    let mut inside = false;
    let normal = pattern
        .chars()
        .map(|letter| {
            inside = letter == '[' || (inside && letter != ']');
            if letter == '-' && !inside { '_' } else { letter }
        })
        .collect();
    Cow::Owned(normal)
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn bad(table: &'static str, line: &str) -> IndexError {
    IndexError::Line { table, line: line.chars().take(200).collect() }
}

fn find_modules(
    root: &Path,
    below: &str,
    depth: usize,
    found: &mut Vec<String>,
) -> Result<(), IndexError> {
    let dir = root.join(below);
    let read = |source| IndexError::Read { path: dir.clone(), source };
    for entry in fs::read_dir(&dir).map_err(read)? {
        let entry = entry.map_err(read)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{below}/{name}");
        if entry.file_type().map_err(read)?.is_dir() {
            if depth > 0 {
                find_modules(root, &path, depth - 1, found)?;
            }
        } else if name.ends_with(".ko") {
            found.push(path);
        }
    }
    Ok(())
}

pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, IndexError> {
    let read = || {
        if fs::metadata(path)?.len() > FILE_LIMIT {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        fs::read(path)
    };
    read().map_err(|source| IndexError::Read { path: path.to_owned(), source })
}

fn optional_text(dir: &Path, name: &str) -> Result<String, IndexError> {
    match bytes(&dir.join(name)) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(IndexError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(String::new())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(crate) mod tests;
