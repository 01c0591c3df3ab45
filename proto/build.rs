//! Compiles every contract under `townlake/` with protox, so that no protoc needs to be installed for it.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files: Vec<_> = std::fs::read_dir("townlake")?.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
    files.sort();
    println!("cargo:rerun-if-changed=townlake");
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
