//! Compares the declarations of this crate with Corosync's installed headers, through a C compiler.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{CStr, c_char, c_void},
    mem::{align_of, offset_of, size_of},
    sync::Mutex,
};

use corosync_sys::*;

use crate::support::Scratch;

const INCLUDES: &str = r"
#include <stddef.h>
#include <stdio.h>
#include <corosync/corotypes.h>
#include <corosync/quorum.h>
#include <corosync/votequorum.h>
#include <corosync/cmap.h>
";

/// The sources of this crate, from which the tests read the signatures.
const SOURCES: [&str; 3] = [
    include_str!("../../src/quorum.rs"),
    include_str!("../../src/votequorum.rs"),
    include_str!("../../src/cmap.rs"),
];

/// The prefixes of the constants that this crate declares.
const PREFIXES: [&str; 7] =
    ["CS_OK", "CS_ERR_", "CS_DISPATCH_", "CS_TRACK_", "QUORUM_", "VOTEQUORUM_", "CMAP_"];

macro_rules! constants {
    ($($name:ident)*) => {
        BTreeSet::from([$((stringify!($name).to_owned(), i64::try_from($name).expect("the value fits into i64"))),*])
    };
}

fn constants() -> BTreeSet<(String, i64)> {
    constants! {
        CS_OK CS_ERR_LIBRARY CS_ERR_VERSION CS_ERR_INIT CS_ERR_TIMEOUT CS_ERR_TRY_AGAIN
        CS_ERR_INVALID_PARAM CS_ERR_NO_MEMORY CS_ERR_BAD_HANDLE CS_ERR_BUSY CS_ERR_ACCESS
        CS_ERR_NOT_EXIST CS_ERR_NAME_TOO_LONG CS_ERR_EXIST CS_ERR_NO_SPACE CS_ERR_INTERRUPT
        CS_ERR_NAME_NOT_FOUND CS_ERR_NO_RESOURCES CS_ERR_NOT_SUPPORTED CS_ERR_BAD_OPERATION
        CS_ERR_FAILED_OPERATION CS_ERR_MESSAGE_ERROR CS_ERR_QUEUE_FULL CS_ERR_QUEUE_NOT_AVAILABLE
        CS_ERR_BAD_FLAGS CS_ERR_TOO_BIG CS_ERR_NO_SECTIONS CS_ERR_CONTEXT_NOT_FOUND
        CS_ERR_TOO_MANY_GROUPS CS_ERR_SECURITY
        CS_DISPATCH_ONE CS_DISPATCH_ALL CS_DISPATCH_BLOCKING CS_DISPATCH_ONE_NONBLOCKING
        CS_TRACK_CURRENT CS_TRACK_CHANGES CS_TRACK_CHANGES_ONLY
        QUORUM_MODEL_V0 QUORUM_MODEL_V1 QUORUM_FREE QUORUM_SET
        VOTEQUORUM_INFO_TWONODE VOTEQUORUM_INFO_QUORATE VOTEQUORUM_INFO_WAIT_FOR_ALL
        VOTEQUORUM_INFO_LAST_MAN_STANDING VOTEQUORUM_INFO_AUTO_TIE_BREAKER
        VOTEQUORUM_INFO_ALLOW_DOWNSCALE VOTEQUORUM_INFO_QDEVICE_REGISTERED
        VOTEQUORUM_INFO_QDEVICE_ALIVE VOTEQUORUM_INFO_QDEVICE_CAST_VOTE
        VOTEQUORUM_INFO_QDEVICE_MASTER_WINS
        VOTEQUORUM_QDEVICE_NODEID VOTEQUORUM_QDEVICE_MAX_NAME_LEN
        VOTEQUORUM_QDEVICE_DEFAULT_TIMEOUT VOTEQUORUM_QDEVICE_DEFAULT_SYNC_TIMEOUT
        VOTEQUORUM_NODESTATE_MEMBER VOTEQUORUM_NODESTATE_DEAD VOTEQUORUM_NODESTATE_LEAVING
        CMAP_KEYNAME_MAXLEN CMAP_KEYNAME_MINLEN
        CMAP_TRACK_ADD CMAP_TRACK_DELETE CMAP_TRACK_MODIFY CMAP_TRACK_PREFIX
        CMAP_VALUETYPE_INT8 CMAP_VALUETYPE_UINT8 CMAP_VALUETYPE_INT16 CMAP_VALUETYPE_UINT16
        CMAP_VALUETYPE_INT32 CMAP_VALUETYPE_UINT32 CMAP_VALUETYPE_INT64 CMAP_VALUETYPE_UINT64
        CMAP_VALUETYPE_FLOAT CMAP_VALUETYPE_DOUBLE CMAP_VALUETYPE_STRING CMAP_VALUETYPE_BINARY
        CMAP_MAP_DEFAULT CMAP_MAP_ICMAP CMAP_MAP_STATS
    }
}

/// Returns the constants that were added after Corosync 3.1.10. Older headers lack them.
fn newer() -> BTreeSet<(String, i64)> {
    constants! {
        VOTEQUORUM_INFO_QDEVICE_HAS_EXTRA_INFO VOTEQUORUM_MODEL_V1
        VOTEQUORUM_QDEVICE_EXTRA_NODEINFO_MAXSIZE
    }
}

/// Returns the constants with different values, those that only this crate has, and those that only
/// the headers have, because they are newer.
fn differences(
    ours: &BTreeSet<(String, i64)>,
    newer: &BTreeSet<(String, i64)>,
    theirs: &BTreeSet<(String, i64)>,
) -> [Vec<String>; 3] {
    let all: BTreeMap<&str, i64> =
        ours.iter().chain(newer).map(|(name, value)| (name.as_str(), *value)).collect();
    let names: BTreeSet<&str> = theirs.iter().map(|(name, _)| name.as_str()).collect();
    let differs = theirs.iter().filter_map(|(name, value)| {
        let ours = all.get(name.as_str()).filter(|ours| *ours != value)?;
        Some(format!("{name} is {value} in the headers and {ours} here"))
    });
    let only_here = ours.iter().filter(|(name, _)| !names.contains(name.as_str()));
    let unknown = theirs.iter().filter(|(name, _)| !all.contains_key(name.as_str()));
    [
        differs.collect(),
        only_here.map(|(name, _)| name.clone()).collect(),
        unknown.map(|(name, value)| format!("{name} = {value}")).collect(),
    ]
}

#[test]
fn differing_constants_and_new_ones_are_listed_separately() {
    let set = |constants: &[(&str, i64)]| -> BTreeSet<(String, i64)> {
        constants.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    };
    let (ours, newer) = (set(&[("A", 1), ("B", 2), ("C", 3)]), set(&[("N", 4), ("M", 5)]));
    let [differs, only_here, unknown] =
        differences(&ours, &newer, &set(&[("A", 1), ("B", 9), ("M", 7), ("X", 6)]));
    assert_eq!(differs, ["B is 9 in the headers and 2 here", "M is 7 in the headers and 5 here"]);
    assert_eq!(only_here, ["C"]);
    assert_eq!(unknown, ["X = 6"]);
}

/// Returns the constants of the installed headers, with their values in C.
fn header_constants(scratch: &Scratch) -> BTreeSet<(String, i64)> {
    let names: BTreeSet<_> = scratch
        .preprocess(INCLUDES)
        .lines()
        .filter_map(|line| {
            // `#define NAME VALUE`, or `NAME = VALUE` in an enum.
            let mut words = line.split_whitespace();
            match (words.next()?, words.next()?) {
                ("#define", name) => words.next().map(|_| name.to_owned()),
                (name, "=") => Some(name.to_owned()),
                _ => None,
            }
        })
        .filter(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    let print = |name| format!("printf(\"{name} %lld\\n\", (long long) {name});");
    let values = printed(scratch, names.iter().map(print).collect());
    values
        .lines()
        .map(|line| {
            let (name, value) = line.split_once(' ').expect("the program prints this format");
            (name.to_owned(), value.parse().expect("the value is a number"))
        })
        .collect()
}

/// Returns the output of a C program with these statements.
fn printed(scratch: &Scratch, statements: String) -> String {
    scratch.run(&format!("{INCLUDES}\nint main(void) {{\n{statements}\nreturn 0;\n}}\n"))
}

#[test]
#[ignore = "needs corosync's headers and a C compiler: make test"]
fn the_constants_match_the_headers() {
    let scratch = Scratch::new("constants");
    let [differs, only_here, unknown] =
        differences(&constants(), &newer(), &header_constants(&scratch));
    assert!(differs.is_empty(), "wrong here: {differs:#?}");
    assert!(only_here.is_empty(), "not in the headers: {only_here:#?}");
    assert!(unknown.is_empty(), "new in the headers, and to be added to `newer`: {unknown:#?}");
}

#[test]
#[ignore = "needs corosync's headers and a C compiler: make test"]
fn error_names_match_the_headers() {
    let scratch = Scratch::new("error_names");
    let codes: Vec<_> = header_constants(&scratch)
        .into_iter()
        .filter(|(name, _)| name == "CS_OK" || name.starts_with("CS_ERR_"))
        .collect();
    assert!(codes.len() >= 30, "only these codes were found: {codes:?}");
    for (name, value) in codes {
        let code = cs_error_t::try_from(value).expect("the value fits into cs_error_t");
        assert_eq!(error_name(code), Some(name.as_str()));
    }
}

/// Returns the layout of structs in Rust, and the C statements that print their layout in C.
macro_rules! structs {
    ($($c:literal = $rust:ident { $($field:ident)* })*) => {{
        let (mut ours, mut theirs) = (String::new(), String::new());
        $(
            let (size, align) = (size_of::<$rust>(), align_of::<$rust>());
            ours += &format!("{} size {size} align {align}\n", $c);
            theirs += &format!(
                "printf(\"{0} size %zu align %zu\\n\", sizeof({0}), _Alignof({0}));\n",
                $c,
            );
            $(
                let field = stringify!($field).trim_start_matches("r#");
                let (offset, size) = (offset_of!($rust, $field), field_size(|it: &$rust| &it.$field));
                ours += &format!("{}.{field} at {offset} size {size}\n", $c);
                theirs += &format!(
                    "printf(\"{0}.{field} at %zu size %zu\\n\", \
                     offsetof({0}, {field}), sizeof((({0} *) 0)->{field}));\n",
                    $c,
                );
            )*
        )*
        (ours, theirs)
    }};
}

fn field_size<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

#[test]
#[ignore = "needs corosync's headers and a C compiler: make test"]
fn the_layout_of_structs_matches_the_headers() {
    let (ours, theirs) = structs! {
        "struct quorum_ring_id" = quorum_ring_id { nodeid seq }
        "quorum_callbacks_t" = quorum_callbacks_t { quorum_notify_fn }
        "quorum_model_data_t" = quorum_model_data_t { model }
        "quorum_model_v0_data_t" = quorum_model_v0_data_t { model quorum_notify_fn }
        "quorum_model_v1_data_t" = quorum_model_v1_data_t {
            model quorum_notify_fn nodelist_notify_fn
        }
        "struct votequorum_info" = votequorum_info {
            node_id node_state node_votes node_expected_votes highest_expected total_votes quorum
            flags qdevice_votes qdevice_name
        }
        "votequorum_node_t" = votequorum_node_t { nodeid state }
        "votequorum_ring_id_t" = votequorum_ring_id_t { nodeid seq }
        "votequorum_callbacks_t" = votequorum_callbacks_t {
            votequorum_quorum_notify_fn votequorum_expectedvotes_notify_fn
            votequorum_nodelist_notify_fn
        }
        "struct cmap_notify_value" = cmap_notify_value { r#type len data }
    };
    assert_eq!(ours, printed(&Scratch::new("structs"), theirs));
}

/// Does the same as `structs!` for handles and enums.
macro_rules! scalars {
    ($($name:ident)*) => {{
        let (mut ours, mut theirs) = (String::new(), String::new());
        $(
            let (size, unsigned) = (size_of::<$name>(), u8::from(<$name>::MIN == 0));
            ours += &format!("{} size {size} unsigned {unsigned}\n", stringify!($name));
            theirs += &format!(
                "printf(\"{0} size %zu unsigned %d\\n\", sizeof({0}), ({0}) -1 > ({0}) 0);\n",
                stringify!($name),
            );
        )*
        (ours, theirs)
    }};
}

#[test]
#[ignore = "needs corosync's headers and a C compiler: make test"]
fn handles_and_enums_match_the_headers() {
    let (ours, theirs) = scalars! {
        cs_error_t cs_dispatch_flags_t quorum_handle_t quorum_model_t votequorum_handle_t
        cmap_handle_t cmap_iter_handle_t cmap_track_handle_t cmap_value_types_t cmap_map_t
    };
    assert_eq!(ours, printed(&Scratch::new("scalars"), theirs));
}

/// Returns the functions in the table of a source file, with their parameters in C.
fn functions(source: &str) -> Vec<(String, String)> {
    let source = without_comments(source);
    let (_, list) = source.split_once("library! {").expect("each file has a list");
    list.split(" fn ")
        .skip(1)
        .map(|function| {
            let (name, rest) = function.split_once('(').expect("the function has a name");
            (name.to_owned(), parameters(rest))
        })
        .collect()
}

/// Returns the types of callbacks in a source file, with their parameters in C.
fn callbacks(source: &str) -> Vec<(String, String)> {
    without_comments(source)
        .split("pub type ")
        .filter_map(|alias| alias.split_once(';')?.0.split_once(" = Option<"))
        .map(|(name, callback)| {
            let (_, rest) = callback.split_once("fn(").expect("the callback is a function type");
            (name.to_owned(), parameters(rest))
        })
        .collect()
}

/// Returns the source without comments, as one line with single spaces.
fn without_comments(source: &str) -> String {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

fn parameters(rest: &str) -> String {
    let (list, _) = rest.split_once(')').expect("a parenthesis closes the list");
    let types = list.split(',').filter_map(|parameter| parameter.split_once(": "));
    types.map(|(_, rust)| c_type(rust.trim())).collect::<Vec<_>>().join(", ")
}

fn c_type(rust: &str) -> String {
    if let Some(pointee) = rust.strip_prefix("*mut ") {
        return format!("{} *", c_type(pointee));
    }
    if let Some(pointee) = rust.strip_prefix("*const ") {
        return format!("{} const *", c_type(pointee));
    }
    match rust {
        "c_char" => "char",
        "c_int" => "int",
        "c_uint" => "unsigned int",
        "c_void" => "void",
        "i32" => "int32_t",
        "u32" => "uint32_t",
        "u64" => "uint64_t",
        "usize" => "size_t",
        "quorum_ring_id" => "struct quorum_ring_id",
        "votequorum_info" => "struct votequorum_info",
        "cmap_notify_value" => "struct cmap_notify_value",
        same => same,
    }
    .to_owned()
}

#[test]
#[ignore = "needs corosync's headers and a C compiler: make test"]
fn the_types_of_functions_match_the_headers() {
    let functions = SOURCES.map(functions);
    // These numbers show that all functions were found in the source files.
    assert_eq!(functions.each_ref().map(Vec::len), [10, 11, 22]);
    let mut source = INCLUDES.to_owned();
    for (name, parameters) in functions.concat() {
        source += &format!("cs_error_t (*our_{name})({parameters}) = {name};\n");
    }
    Scratch::new("functions").check(&source);
}

#[test]
#[ignore = "needs corosync's headers and a C compiler: make test"]
fn the_types_of_callbacks_match_the_headers() {
    let callbacks = SOURCES.map(callbacks);
    assert_eq!(callbacks.each_ref().map(Vec::len), [3, 3, 1]);
    let mut source = INCLUDES.to_owned();
    for (name, parameters) in callbacks.concat() {
        source += &format!("{name} their_{name};\n");
        source += &format!("void (**our_{name})({parameters}) = &their_{name};\n");
    }
    Scratch::new("callbacks").check(&source);
}

/// Calls each callback that takes a struct by value, from C.
const CALLER: &str = r#"
void call_quorum(quorum_v1_quorum_notification_fn_t callback)
{
    struct quorum_ring_id ring = { .nodeid = 2, .seq = 0x0102030405060708ULL };
    uint32_t members[] = { 4, 5, 6 };
    callback(1, 7, ring, 3, members);
}

void call_nodelist(quorum_v1_nodelist_notification_fn_t callback)
{
    struct quorum_ring_id ring = { .nodeid = 2, .seq = 0x0102030405060708ULL };
    uint32_t members[] = { 4, 5, 6 }, joined[] = { 7 }, left[] = { 8, 9 };
    callback(1, ring, 3, members, 1, joined, 2, left);
}

void call_votequorum(votequorum_nodelist_notification_fn_t callback)
{
    votequorum_ring_id_t ring = { .nodeid = 2, .seq = 0x0102030405060708ULL };
    uint32_t members[] = { 4, 5 };
    callback(1, 3, ring, 2, members);
}

void call_cmap(cmap_notify_fn_t callback)
{
    struct cmap_notify_value new = { CMAP_VALUETYPE_STRING, 4, "new" };
    struct cmap_notify_value old = { CMAP_VALUETYPE_BINARY, 5, "past" };
    int data = 3;
    callback(1, 2, CMAP_TRACK_MODIFY, "key", new, old, &data);
}
"#;

/// The arguments that the callbacks below received.
static RECEIVED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// # Safety
///
/// `list` must hold `entries` ids.
unsafe fn ids(entries: u32, list: *const u32) -> Vec<u32> {
    // SAFETY: the caller guarantees the list.
    unsafe { std::slice::from_raw_parts(list, entries as usize) }.to_vec()
}

/// # Safety
///
/// `text` must be a C string.
unsafe fn text(text: *const c_char) -> String {
    // SAFETY: the caller guarantees the text.
    unsafe { CStr::from_ptr(text) }.to_str().expect("the text is ASCII").to_owned()
}

unsafe extern "C" fn on_quorum(
    handle: quorum_handle_t,
    quorate: u32,
    ring: quorum_ring_id,
    entries: u32,
    members: *const u32,
) {
    // SAFETY: `call_quorum` passes an array and its length.
    let members = unsafe { ids(entries, members) };
    RECEIVED.lock().unwrap().push(format!("{handle} {quorate} {ring:x?} {members:?}"));
}

unsafe extern "C" fn on_nodelist(
    handle: quorum_handle_t,
    ring: quorum_ring_id,
    members: u32,
    member_list: *const u32,
    joined: u32,
    joined_list: *const u32,
    left: u32,
    left_list: *const u32,
) {
    // SAFETY: `call_nodelist` passes arrays and their lengths.
    let lists =
        unsafe { [ids(members, member_list), ids(joined, joined_list), ids(left, left_list)] };
    RECEIVED.lock().unwrap().push(format!("{handle} {ring:x?} {lists:?}"));
}

unsafe extern "C" fn on_votequorum(
    handle: votequorum_handle_t,
    context: u64,
    ring: votequorum_ring_id_t,
    entries: u32,
    members: *mut u32,
) {
    // SAFETY: `call_votequorum` passes an array and its length.
    let members = unsafe { ids(entries, members) };
    RECEIVED.lock().unwrap().push(format!("{handle} {context} {ring:x?} {members:?}"));
}

unsafe extern "C" fn on_cmap(
    handle: cmap_handle_t,
    track: cmap_track_handle_t,
    event: i32,
    key: *const c_char,
    new: cmap_notify_value,
    old: cmap_notify_value,
    user_data: *mut c_void,
) {
    // SAFETY: `call_cmap` passes strings.
    let (key, new_text, old_text) =
        unsafe { (text(key), text(new.data.cast()), text(old.data.cast())) };
    // SAFETY: `call_cmap` passes a pointer to an int.
    let data = unsafe { *user_data.cast::<i32>() };
    let (new, old) = ((new.r#type, new.len, new_text), (old.r#type, old.len, old_text));
    RECEIVED.lock().unwrap().push(format!("{handle} {track} {event} {key} {new:?} {old:?} {data}"));
}

#[test]
#[ignore = "needs corosync's headers and a C compiler: make test"]
fn callbacks_receive_the_arguments_that_c_code_passes() {
    let scratch = Scratch::new("caller");
    let path = scratch.library("libcaller.so", &format!("{INCLUDES}{CALLER}"));
    // SAFETY: the library consists of `CALLER`, which has no constructors.
    let caller =
        unsafe { libloading::Library::new(path) }.expect("the compiled library can be loaded");
    macro_rules! call {
        ($function:literal, $type:ty, $callback:ident) => {
            // SAFETY: `CALLER` has this function, with this type.
            let call = unsafe { caller.get::<unsafe extern "C" fn($type)>($function) };
            // SAFETY: the callback reads what `CALLER` passes to it.
            unsafe { call.expect("the library has the function")(Some($callback)) };
        };
    }
    call!("call_quorum", quorum_v1_quorum_notification_fn_t, on_quorum);
    call!("call_nodelist", quorum_v1_nodelist_notification_fn_t, on_nodelist);
    call!("call_votequorum", votequorum_nodelist_notification_fn_t, on_votequorum);
    call!("call_cmap", cmap_notify_fn_t, on_cmap);
    assert_eq!(
        *RECEIVED.lock().unwrap(),
        [
            "1 7 quorum_ring_id { nodeid: 2, seq: 102030405060708 } [4, 5, 6]",
            "1 quorum_ring_id { nodeid: 2, seq: 102030405060708 } [[4, 5, 6], [7], [8, 9]]",
            "1 3 votequorum_ring_id_t { nodeid: 2, seq: 102030405060708 } [4, 5]",
            r#"1 2 2 key (11, 4, "new") (12, 5, "past") 3"#,
        ]
    );
}
