//! From an engine error back to the typed error that it stands for.
//!
//! DataFusion, Arrow, Parquet, object_store and Ballista wrap each other's errors. A typed error of ours, however deep,
//! comes back as it was; what is not ours is classified by its type, never by its text.

use std::error::Error as StdError;
use std::io;

use arrow::error::ArrowError;
use ballista_core::error::BallistaError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use parquet::errors::ParquetError;
use townlake_common::{Error, ErrorCode, nearest};

use crate::identifier::quoted;

/// How many wrappers are opened: an error that contains itself must not hang the server.
const MAX_DEPTH: usize = 32;

/// A typed error as a DataFusion error, for use inside operators. [`from_datafusion`] gives it back.
pub fn to_datafusion(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The typed error that `error` carries or stands for.
pub fn from_datafusion(error: &DataFusionError) -> Error {
    datafusion(error, 0)
}

/// The typed error that `error` carries or stands for.
pub fn from_ballista(error: &BallistaError) -> Error {
    ballista(error, 0)
}

fn datafusion(error: &DataFusionError, depth: usize) -> Error {
    use DataFusionError as E;
    if depth > MAX_DEPTH {
        return Error::internal("an error is nested too deeply");
    }
    let next = depth + 1;
    match error {
        E::External(inner) => any(inner.as_ref(), next),
        E::Context(_, inner) | E::Diagnostic(_, inner) => datafusion(inner, next),
        E::Shared(inner) => datafusion(inner, next),
        E::Collection(errors) => {
            errors.first().map_or_else(|| Error::internal("an empty list of errors"), |e| datafusion(e, next))
        }
        E::ArrowError(inner, _) => arrow(inner, next),
        E::ParquetError(inner) => parquet(inner, next),
        E::ObjectStore(inner) => object_store(inner, next),
        E::IoError(inner) => io(inner, next),
        E::SQL(parser, _) => Error::new(ErrorCode::SyntaxError, parser.to_string()),
        E::NotImplemented(what) => Error::new(ErrorCode::NotSupported, what),
        E::Plan(what) | E::Execution(what) => Error::new(ErrorCode::InvalidQuery, what),
        E::Configuration(what) => Error::new(ErrorCode::InvalidArgument, what),
        E::SchemaError(inner, _) => schema(inner),
        E::ResourcesExhausted(what) => memory(what),
        E::ExecutionJoin(join) if join.is_cancelled() => cancelled(),
        other => Error::internal(other.strip_backtrace()),
    }
}

fn ballista(error: &BallistaError, depth: usize) -> Error {
    use BallistaError as E;
    let next = depth + 1;
    match error {
        E::ArrowError(inner) => arrow(inner, next),
        E::DataFusionError(inner) => datafusion(inner, next),
        E::SqlError(parser) => Error::new(ErrorCode::SyntaxError, parser.to_string()),
        E::IoError(inner) => io(inner, next),
        E::NotImplemented(what) => Error::new(ErrorCode::NotSupported, what),
        E::GrpcError(status) => Error::from_status("a node of the cluster", status),
        E::TonicError(_) | E::GrpcConnectionError(_) | E::GrpcActionError(_) => {
            Error::new(ErrorCode::ExecutorLost, "the connection to an executor broke").retryable()
        }
        E::FetchFailed(executor, stage, _, _) => {
            let message = format!("the output of stage {stage} on executor {executor} cannot be fetched");
            Error::new(ErrorCode::ExecutorLost, message).retryable()
        }
        E::TokioError(join) if join.is_cancelled() => cancelled(),
        E::Cancelled => cancelled(),
        other => Error::internal(other.to_string()),
    }
}

/// An error behind `dyn Error`: one of the types that we know, or a wrapper of one.
fn any(error: &(dyn StdError + 'static), depth: usize) -> Error {
    if depth > MAX_DEPTH {
        return Error::internal("an error is nested too deeply");
    }
    if let Some(error) = error.downcast_ref::<Error>() {
        return error.clone();
    }
    if let Some(error) = error.downcast_ref::<DataFusionError>() {
        return datafusion(error, depth + 1);
    }
    if let Some(error) = error.downcast_ref::<BallistaError>() {
        return ballista(error, depth + 1);
    }
    if let Some(error) = error.downcast_ref::<ArrowError>() {
        return arrow(error, depth + 1);
    }
    if let Some(error) = error.downcast_ref::<ParquetError>() {
        return parquet(error, depth + 1);
    }
    if let Some(error) = error.downcast_ref::<object_store::Error>() {
        return object_store(error, depth + 1);
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return io(error, depth + 1);
    }
    if let Some(status) = error.downcast_ref::<tonic::Status>() {
        return Error::from_status("a node of the cluster", status);
    }
    match error.source() {
        Some(source) if is_known(source, depth + 1) => any(source, depth + 1),
        _ => Error::internal(error.to_string()),
    }
}

/// Whether a type that [`any`] classifies lies in the chain of sources.
fn is_known(error: &(dyn StdError + 'static), depth: usize) -> bool {
    let here = error.is::<Error>()
        || error.is::<DataFusionError>()
        || error.is::<BallistaError>()
        || error.is::<ArrowError>()
        || error.is::<ParquetError>()
        || error.is::<object_store::Error>()
        || error.is::<io::Error>()
        || error.is::<tonic::Status>();
    here || (depth < MAX_DEPTH && error.source().is_some_and(|source| is_known(source, depth + 1)))
}

fn arrow(error: &ArrowError, depth: usize) -> Error {
    use ArrowError as E;
    match error {
        E::ExternalError(inner) => any(inner.as_ref(), depth + 1),
        E::IoError(_, inner) => io(inner, depth + 1),
        E::DivideByZero => Error::new(ErrorCode::ArithmeticError, "division by zero"),
        E::ArithmeticOverflow(what) | E::CastError(what) | E::ParseError(what) => {
            Error::new(ErrorCode::ArithmeticError, what).with_hint("try_cast gives NULL where a cast fails")
        }
        E::MemoryError(what) => memory(what),
        E::NotYetImplemented(what) => Error::new(ErrorCode::NotSupported, what),
        E::ComputeError(what) | E::InvalidArgumentError(what) => Error::new(ErrorCode::InvalidQuery, what),
        E::ParquetError(what) | E::IpcError(what) | E::CsvError(what) | E::JsonError(what) | E::AvroError(what) => {
            Error::new(ErrorCode::DataCorrupt, what)
        }
        other => Error::internal(other.to_string()),
    }
}

fn parquet(error: &ParquetError, depth: usize) -> Error {
    match error {
        ParquetError::External(inner) if is_known(inner.as_ref(), depth + 1) => any(inner.as_ref(), depth + 1),
        ParquetError::NYI(what) => Error::new(ErrorCode::FormatNotSupported, what),
        other => Error::new(ErrorCode::DataCorrupt, format!("a Parquet file cannot be decoded: {other}")),
    }
}

fn object_store(error: &object_store::Error, depth: usize) -> Error {
    use object_store::Error as E;
    match error {
        E::NotFound { path, .. } => Error::new(ErrorCode::FileNotFound, format!("the file {path} does not exist")),
        E::PermissionDenied { path, .. } | E::Unauthenticated { path, .. } => {
            Error::new(ErrorCode::SourceDenied, format!("the object store refuses access to {path}"))
                .with_hint("check the credentials of the catalog")
        }
        E::Generic { store, source } => match source.downcast_ref::<io::Error>() {
            Some(inner) if inner.kind() == io::ErrorKind::UnexpectedEof => io(inner, depth + 1),
            _ if source.downcast_ref::<Error>().is_some() => any(source.as_ref(), depth + 1),
            _ => Error::new(ErrorCode::SourceUnavailable, format!("the object store ({store}) cannot be reached"))
                .retryable(),
        },
        E::AlreadyExists { path, .. } | E::Precondition { path, .. } => {
            Error::new(ErrorCode::CommitConflict, format!("another writer changed {path}"))
        }
        other => Error::internal(other.to_string()),
    }
}

fn io(error: &io::Error, depth: usize) -> Error {
    if let Some(inner) = error.get_ref().filter(|inner| is_known(*inner, depth + 1)) {
        return any(inner, depth + 1);
    }
    match error.kind() {
        io::ErrorKind::NotFound => Error::new(ErrorCode::FileNotFound, format!("a file does not exist: {error}")),
        io::ErrorKind::PermissionDenied => {
            Error::new(ErrorCode::SourceDenied, format!("a file cannot be opened: {error}"))
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
            Error::new(ErrorCode::DataCorrupt, format!("a file cannot be decoded: {error}"))
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::new(ErrorCode::ResourceExhausted, "the disk of an executor is full")
                .with_hint("give executor.spill_dir more room")
        }
        _ => Error::new(ErrorCode::SourceUnavailable, format!("input or output failed: {error}")).retryable(),
    }
}

fn schema(error: &SchemaError) -> Error {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let error = Error::new(ErrorCode::ColumnNotFound, format!("column {} does not exist", field.flat_name()));
            match nearest(field.name(), valid_fields.iter().map(|column| column.name())) {
                Some(name) => error.with_hint(format!("did you mean {}?", quoted(name))),
                None => error,
            }
        }
        other => Error::new(ErrorCode::InvalidQuery, other.to_string()),
    }
}

fn memory(what: &str) -> Error {
    Error::new(ErrorCode::MemoryLimit, format!("the query needs more memory than it may have: {what}"))
        .with_hint("raise executor.memory, or join and group less at once")
}

fn cancelled() -> Error {
    Error::new(ErrorCode::Cancelled, "the task was cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn typed() -> Error {
        Error::new(ErrorCode::SourceDenied, "catalog crm refuses").with_hint("ask").retryable()
    }

    #[test]
    fn a_typed_error_comes_back_through_every_wrapper() {
        let wrapped: Vec<DataFusionError> = vec![
            to_datafusion(typed()),
            to_datafusion(typed()).context("a").context("b"),
            DataFusionError::Shared(Arc::new(to_datafusion(typed()))),
            DataFusionError::Collection(vec![to_datafusion(typed())]),
            DataFusionError::ArrowError(Box::new(ArrowError::ExternalError(Box::new(to_datafusion(typed())))), None),
            DataFusionError::ParquetError(Box::new(ParquetError::External(Box::new(typed())))),
            DataFusionError::IoError(io::Error::other(typed())),
            DataFusionError::External(Box::new(BallistaError::DataFusionError(Box::new(to_datafusion(typed()))))),
            DataFusionError::External(Box::new(object_store::Error::Generic {
                store: "S3",
                source: Box::new(typed()),
            })),
        ];
        for error in &wrapped {
            assert_eq!(from_datafusion(error).to_wire(), typed().to_wire(), "{error:?}");
        }
        let error = BallistaError::IoError(io::Error::other(typed()));
        assert_eq!(from_ballista(&error).to_wire(), typed().to_wire());
    }

    #[test]
    fn foreign_errors_are_classified_by_type() {
        let check = |error: DataFusionError, code: ErrorCode, retryable: bool| {
            let typed = from_datafusion(&error);
            assert_eq!((typed.code(), typed.is_retryable()), (code, retryable), "{error:?}");
        };
        check(DataFusionError::ResourcesExhausted("x".into()), ErrorCode::MemoryLimit, false);
        check(DataFusionError::ArrowError(Box::new(ArrowError::DivideByZero), None), ErrorCode::ArithmeticError, false);
        check(DataFusionError::IoError(io::ErrorKind::ConnectionReset.into()), ErrorCode::SourceUnavailable, true);
        check(DataFusionError::IoError(io::ErrorKind::PermissionDenied.into()), ErrorCode::SourceDenied, false);
        let cut_short = ParquetError::EOF("3 bytes".to_string());
        check(DataFusionError::ParquetError(Box::new(cut_short)), ErrorCode::DataCorrupt, false);
        let missing = object_store::Error::NotFound { path: "a/b.parquet".to_string(), source: "gone".into() };
        check(DataFusionError::ObjectStore(Box::new(missing)), ErrorCode::FileNotFound, false);
        let lost = BallistaError::FetchFailed("e1".to_string(), 1, 2, "refused".to_string());
        check(lost.into_datafusion(), ErrorCode::ExecutorLost, true);
    }

    #[test]
    fn a_column_that_does_not_exist_is_named_with_its_nearest() {
        let valid_fields = vec![datafusion::common::Column::from_name("o_orderkey")];
        let field = Box::new(datafusion::common::Column::from_name("o_orderky"));
        let error =
            DataFusionError::SchemaError(Box::new(SchemaError::FieldNotFound { field, valid_fields }), Box::new(None));
        let typed = from_datafusion(&error);
        assert_eq!(typed.code(), ErrorCode::ColumnNotFound);
        assert_eq!(typed.hint(), Some("did you mean o_orderkey?"));
    }

    #[test]
    fn a_hint_can_be_typed_as_it_stands() {
        let valid_fields = vec![datafusion::common::Column::from_name("Id")];
        let field = Box::new(datafusion::common::Column::from_name("id"));
        let error =
            DataFusionError::SchemaError(Box::new(SchemaError::FieldNotFound { field, valid_fields }), Box::new(None));
        assert_eq!(from_datafusion(&error).hint(), Some("did you mean \"Id\"?"));
    }
}
