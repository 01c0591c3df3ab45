//! The functions that SQL has here: the same list where plans are made and where they run.

use std::sync::{Arc, LazyLock};

use ballista_core::extension::{ballista_aggregate_functions, ballista_scalar_functions, ballista_window_functions};
use ballista_core::registry::BallistaFunctionRegistry;

/// Every function by name. Functions cross the wire by name alone, so a name must mean the same on every node of a build.
///
/// Ballista's own default lacks the array functions; this registry has them.
pub fn registry() -> Arc<BallistaFunctionRegistry> {
    static REGISTRY: LazyLock<Arc<BallistaFunctionRegistry>> = LazyLock::new(|| {
        let mut registry = BallistaFunctionRegistry::default();
        // A function is also known under its aliases: a plan may name either.
        // Ours has no place in the sessions: only the optimizer calls it.
        for function in ballista_scalar_functions().into_iter().chain([crate::subqueries::single_row()]) {
            for name in function.aliases().iter().cloned().chain([function.name().to_string()]) {
                registry.scalar_functions.insert(name, Arc::clone(&function));
            }
        }
        for function in ballista_aggregate_functions() {
            for name in function.aliases().iter().cloned().chain([function.name().to_string()]) {
                registry.aggregate_functions.insert(name, Arc::clone(&function));
            }
        }
        for function in ballista_window_functions() {
            for name in function.aliases().iter().cloned().chain([function.name().to_string()]) {
                registry.window_functions.insert(name, Arc::clone(&function));
            }
        }
        Arc::new(registry)
    });
    Arc::clone(&REGISTRY)
}

#[cfg(test)]
mod tests {
    use datafusion::execution::FunctionRegistry;

    #[test]
    fn has_array_functions_and_aliases() {
        let registry = super::registry();
        for name in ["array_length", "make_array", "date_part", "datepart", "abs"] {
            assert!(registry.udf(name).is_ok(), "{name}");
        }
        assert!(registry.udaf("mean").is_ok());
    }
}
