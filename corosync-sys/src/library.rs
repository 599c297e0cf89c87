use std::{
    error::Error as _,
    ffi::OsStr,
    mem::ManuallyDrop,
    path::{Path, PathBuf},
};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::LoadError;

/// Declares the table of one library's functions and the functions that fill it, from one list.
///
/// `optional` lists the functions that a supported version of the library may lack, each with the
/// method that returns the function or an error. `tests/it/abi.rs` reads the lists as text, and a C
/// compiler compares them with the headers.
macro_rules! library {
    (
        $(#[$table_doc:meta])*
        pub struct $Table:ident($soname:literal) {
            $($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?);)*
        }
        optional {
            $(
                $(#[$opt_doc:meta])*
                fn $opt_name:ident($($opt_arg:ident: $opt_ty:ty),* $(,)?) as $method:ident;
            )*
        }
    ) => {
        $(#[$table_doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $Table {
            $(
                $(#[$doc])*
                pub $name: unsafe extern "C" fn($($arg: $ty),*) -> $crate::cs_error_t,
            )*
            $(
                $(#[$opt_doc])*
                pub $opt_name:
                    Option<unsafe extern "C" fn($($opt_arg: $opt_ty),*) -> $crate::cs_error_t>,
            )*
        }

        impl $Table {
            #[doc = concat!("Loads the `", $soname, "` that the dynamic linker finds.")]
            ///
            /// All functions are resolved now. The library stays loaded until the process ends.
            ///
            /// # Errors
            ///
            /// Any [`LoadError`](crate::LoadError). Unless only a free file descriptor was missing,
            /// later calls fail in the same way until another library is installed.
            ///
            /// # Safety
            ///
            /// The constructors of the library and of its dependencies run. The library that the
            #[doc = concat!("dynamic linker finds as `", $soname, "` must be Corosync's.")]
            /// If it finds none, this looks for the library with an older soname, to distinguish an
            /// old Corosync from a missing one. That library must be Corosync's too.
            pub unsafe fn load() -> Result<Self, $crate::LoadError> {
                // SAFETY: the caller guarantees the library that is found.
                let library = unsafe { $crate::library::Loaded::by_soname($soname) }?;
                // SAFETY: as above.
                unsafe { Self::resolve(&library) }
            }

            #[doc = concat!("Loads `", $soname, "` from a file.")]
            ///
            /// A name without a slash is searched for as `dlopen(3)` does. All functions are
            /// resolved now. The library stays loaded until the process ends.
            ///
            /// # Errors
            ///
            /// Any [`LoadError`](crate::LoadError). The file is too old if its name, with symbolic
            /// links resolved, contains the number of an older soname.
            ///
            /// # Safety
            ///
            /// The constructors of the file and of its dependencies run. The file must be
            #[doc = concat!("Corosync's `", $soname, "`, under any name,")]
            /// because the functions are called with the signatures of that library.
            pub unsafe fn load_from(
                path: impl AsRef<std::path::Path>,
            ) -> Result<Self, $crate::LoadError> {
                let path = path.as_ref();
                // SAFETY: the caller guarantees the file.
                let library = unsafe { $crate::library::Loaded::by_path($soname, path) }?;
                // SAFETY: as above.
                unsafe { Self::resolve(&library) }
            }

            #[doc = concat!("Returns the functions of the linked `", $soname, "`.")]
            #[cfg(any(feature = "linked", docsrs))]
            #[cfg_attr(docsrs, doc(cfg(feature = "linked")))]
            #[must_use]
            pub fn linked() -> Self {
                unsafe extern "C" {
                    $(fn $name($($arg: $ty),*) -> $crate::cs_error_t;)*
                    $(fn $opt_name($($opt_arg: $opt_ty),*) -> $crate::cs_error_t;)*
                }
                Self { $($name,)* $($opt_name: Some($opt_name),)* }
            }

            $(
                #[doc = concat!("Returns `", stringify!($opt_name), "`, if the library has it.")]
                ///
                /// # Errors
                ///
                /// [`LoadError::TooOld`](crate::LoadError::TooOld) if the library lacks it.
                pub fn $method(
                    &self,
                ) -> Result<
                    unsafe extern "C" fn($($opt_arg: $opt_ty),*) -> $crate::cs_error_t,
                    $crate::LoadError,
                > {
                    self.$opt_name
                        .ok_or_else(|| $crate::library::missing($soname, stringify!($opt_name)))
                }
            )*

            /// Looks up every function.
            ///
            /// # Safety
            ///
            /// The library must be the one that this table describes.
            unsafe fn resolve(
                library: &$crate::library::Loaded,
            ) -> Result<Self, $crate::LoadError> {
                Ok(Self {
                    $(
                        // SAFETY: the caller guarantees the library; `tests/it/abi.rs` checks the
                        // type of this function in it.
                        $name: unsafe { library.symbol(stringify!($name)) }?,
                    )*
                    $(
                        // SAFETY: as above.
                        $opt_name: unsafe { library.symbol(stringify!($opt_name)) }.ok(),
                    )*
                })
            }
        }
    };
}

/// A library in this process. It is never closed, because the tables hold addresses in it.
pub(crate) struct Loaded {
    soname: &'static str,
    library: ManuallyDrop<Library>,
}

impl Loaded {
    /// Opens the library that the dynamic linker finds.
    ///
    /// # Safety
    ///
    /// The constructors of the library that is found as `soname`, or as an older version of it,
    /// run.
    pub(crate) unsafe fn by_soname(soname: &'static str) -> Result<Self, LoadError> {
        // SAFETY: the caller guarantees the library that is found.
        let error = match unsafe { Self::open(soname, soname.as_ref()) } {
            Ok(library) => return Ok(library),
            Err(error) => error,
        };
        let (stem, major) = split(soname);
        for older in (OLDEST_MAJOR..major).rev() {
            let older = format!("{stem}{older}");
            // SAFETY: as above.
            if unsafe { Self::open(soname, older.as_ref()) }.is_ok() {
                return Err(too_old(soname, older));
            }
        }
        Err(error)
    }

    /// Opens a file, unless its name shows that it is an older version of the library.
    ///
    /// # Safety
    ///
    /// The constructors of the file run.
    pub(crate) unsafe fn by_path(soname: &'static str, path: &Path) -> Result<Self, LoadError> {
        // SAFETY: the caller guarantees the file.
        let library = unsafe { Self::open(soname, path.as_os_str()) }?;
        let path = canonical(path);
        match major_of_file(soname, &path) {
            Some(major) if major < split(soname).1 => {
                Err(too_old(soname, path.display().to_string()))
            }
            _ => Ok(library),
        }
    }

    /// Opens a library and never closes it.
    ///
    /// # Safety
    ///
    /// The library's constructors run.
    unsafe fn open(soname: &'static str, name: &OsStr) -> Result<Self, LoadError> {
        // `RTLD_NOW`: a library with unresolved symbols fails here, and not in a later call.
        // SAFETY: the caller guarantees the library.
        let library = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|error| LoadError::Library { library: soname, reason: reason(&error) })?;
        Ok(Self { soname, library: ManuallyDrop::new(library) })
    }

    /// Returns the address of a function.
    ///
    /// # Safety
    ///
    /// `F` must be a function pointer of the type that the library's header declares for `symbol`.
    pub(crate) unsafe fn symbol<F: Copy>(&self, symbol: &'static str) -> Result<F, LoadError> {
        // SAFETY: the caller guarantees the type.
        let found = unsafe { self.library.get::<F>(symbol) };
        found.map(|found| *found).map_err(|_| missing(self.soname, symbol))
    }
}

/// Returns the message of the dynamic linker. libloading's own message only reports a failure.
fn reason(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Returns the error for a library that lacks this function.
pub(crate) fn missing(library: &'static str, symbol: &'static str) -> LoadError {
    match ADDED.iter().find(|(added, _)| *added == symbol) {
        Some(&(_, needs)) => {
            LoadError::TooOld { library, found: format!("{library} (without {symbol})"), needs }
        }
        None => LoadError::Symbol { library, symbol },
    }
}

fn too_old(library: &'static str, found: String) -> LoadError {
    LoadError::TooOld { library, found, needs: oldest(library) }
}

/// Splits `libquorum.so.5` into `libquorum.so.` and `5`.
fn split(soname: &'static str) -> (&'static str, u32) {
    let (stem, major) = soname.split_at(soname.len() - 1);
    (stem, major.parse().expect("each soname here ends in one digit"))
}

/// Returns the file that a path leads to. For `dlopen(3)`, a name without a slash is not a path: it
/// is returned unchanged.
fn canonical(path: &Path) -> PathBuf {
    if path.parent().is_some_and(|parent| parent.as_os_str().is_empty()) {
        return path.to_owned();
    }
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Returns the soname's number in the name of a file such as `libquorum.so.5.1.0`.
fn major_of_file(soname: &'static str, path: &Path) -> Option<u32> {
    let version = path.file_name()?.to_str()?.strip_prefix(split(soname).0)?;
    version.split('.').next()?.parse().ok()
}

/// The functions that are newer than the soname of their library, and the version of Corosync that
/// added them.
const ADDED: [(&str, &str); 2] =
    [("cmap_initialize_map", "corosync 3.0.0"), ("quorum_model_initialize", "corosync 3.1.0")];

/// The number in the sonames of Corosync 1.
const OLDEST_MAJOR: u32 = 4;

/// Returns the version of Corosync that introduced a soname.
fn oldest(library: &str) -> &'static str {
    if library.starts_with("libvotequorum") { "corosync 2.4.2" } else { "corosync 2.0.0" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soname_version_is_read_from_the_file_name() {
        let major = |name| major_of_file("libquorum.so.5", Path::new(name));
        assert_eq!(major("/usr/lib/libquorum.so.4.0.0"), Some(4));
        assert_eq!(major("libquorum.so.5"), Some(5));
        assert_eq!(major("libquorum.so.10.2"), Some(10));
        assert_eq!(major("/usr/lib/libquorum.so"), None);
        assert_eq!(major("/usr/lib/libvotequorum.so.7"), None);
        assert_eq!(major("/opt/4/mine.so"), None);
    }

    #[test]
    fn the_error_for_an_older_soname_names_the_oldest_suitable_corosync() {
        let needs = |library| match too_old(library, String::new()) {
            LoadError::TooOld { needs, .. } => needs,
            other => panic!("{other}"),
        };
        assert_eq!(needs("libvotequorum.so.8"), "corosync 2.4.2");
        assert_eq!(needs("libquorum.so.5"), "corosync 2.0.0");
        assert_eq!(needs("libcmap.so.4"), "corosync 2.0.0");
    }

    #[test]
    fn a_library_without_a_newer_function_is_reported_as_too_old() {
        assert_eq!(
            missing("libquorum.so.5", "quorum_model_initialize"),
            LoadError::TooOld {
                library: "libquorum.so.5",
                found: "libquorum.so.5 (without quorum_model_initialize)".to_owned(),
                needs: "corosync 3.1.0",
            }
        );
        assert_eq!(
            missing("libquorum.so.5", "quorum_dispatch"),
            LoadError::Symbol { library: "libquorum.so.5", symbol: "quorum_dispatch" }
        );
    }
}
