//! How values come over the wire: the plain types that every column is cast to, and arrays of them.

use std::sync::Arc;

use arrow::array::{ArrayData, ArrayRef, make_array};
use arrow::buffer::{Buffer, NullBuffer};
use arrow::datatypes::{DataType, Field, Fields};

/// A type as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wire {
    pub layout: Layout,
    pub nullable: bool,
}

/// How the values of a type lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Little-endian values of one width.
    Fixed {
        /// The type in SQL.
        sql: String,
        /// Bytes of a value in RowBinary. Decimals of 4 and 8 bytes are widened to Arrow's 16.
        width: usize,
        arrow: DataType,
    },
    /// String: any bytes.
    Bytes,
    List(Box<Wire>),
    Map(Box<(Wire, Wire)>),
    Tuple(Vec<Wire>),
}

/// Why what came is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Bytes that are no answer to our statement.
    Malformed(&'static str),
    /// The server's own error behind the rows that it had sent: its text.
    Exception(String),
}

impl Wire {
    /// The type in SQL.
    pub fn sql(&self) -> String {
        let sql = match &self.layout {
            Layout::Fixed { sql, .. } => sql.clone(),
            Layout::Bytes => "String".to_string(),
            Layout::List(element) => format!("Array({})", element.sql()),
            Layout::Map(entry) => format!("Map({}, {})", entry.0.sql(), entry.1.sql()),
            Layout::Tuple(elements) => {
                format!("Tuple({})", elements.iter().map(Self::sql).collect::<Vec<_>>().join(", "))
            }
        };
        if self.nullable { format!("Nullable({sql})") } else { sql }
    }

    /// The Arrow type of arrays of it.
    pub fn arrow(&self) -> DataType {
        match &self.layout {
            Layout::Fixed { arrow, .. } => arrow.clone(),
            Layout::Bytes => DataType::Binary,
            Layout::List(element) => DataType::List(Arc::new(element.field("item"))),
            Layout::Map(entry) => DataType::Map(Arc::new(Field::new("entries", entries(entry), false)), false),
            Layout::Tuple(elements) => {
                let field = |(index, element): (usize, &Self)| element.field(&index.to_string());
                DataType::Struct(elements.iter().enumerate().map(field).collect())
            }
        }
    }

    fn field(&self, name: &str) -> Field {
        Field::new(name, self.arrow(), self.nullable)
    }

    /// An array of `rows` values from its buffers and children, checked.
    pub fn array(
        &self,
        rows: usize,
        nulls: Option<NullBuffer>,
        buffers: Vec<Buffer>,
        children: Vec<ArrayRef>,
    ) -> Result<ArrayRef, Fault> {
        if !self.nullable && nulls.as_ref().is_some_and(|nulls| nulls.null_count() > 0) {
            return Err(Fault::Malformed("a NULL in a column without"));
        }
        build(self.arrow(), rows, nulls, buffers, children)
    }
}

/// The Arrow type of the entries of a map.
pub(crate) fn entries(entry: &(Wire, Wire)) -> DataType {
    DataType::Struct(Fields::from(vec![entry.0.field("key"), entry.1.field("value")]))
}

/// An array from its buffers and children, checked.
pub(crate) fn build(
    arrow: DataType,
    rows: usize,
    nulls: Option<NullBuffer>,
    buffers: Vec<Buffer>,
    children: Vec<ArrayRef>,
) -> Result<ArrayRef, Fault> {
    let data = ArrayData::builder(arrow)
        .len(rows)
        .nulls(nulls)
        .buffers(buffers)
        .child_data(children.iter().map(|child| child.to_data()).collect())
        .align_buffers(true)
        .build();
    data.map(make_array).map_err(|_| Fault::Malformed("buffers that do not fit together"))
}
