//! Compiles every contract under `townlake/` and `google/` with protox, so that no protoc needs to be installed for it.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = Vec::new();
    for folder in ["townlake", "google"] {
        files.extend(std::fs::read_dir(folder)?.filter_map(|entry| entry.ok().map(|e| e.path())));
        println!("cargo:rerun-if-changed={folder}");
    }
    files.sort();
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
