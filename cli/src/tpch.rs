//! TPC-H data and queries, generated on the fly by the `tpchgen` crates (TPC-H derived: not an audited TPC result).

use std::fmt;

use arrow::record_batch::RecordBatchReader;
use townlake_common::{Error, ErrorCode, Result};
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow, SupplierArrow,
};

/// One of the eight tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// 150,000 rows a scale factor.
    Customer,
    /// About 6,000,000 rows a scale factor.
    LineItem,
    /// 25 rows.
    Nation,
    /// 1,500,000 rows a scale factor.
    Orders,
    /// 200,000 rows a scale factor.
    Part,
    /// 800,000 rows a scale factor.
    PartSupp,
    /// 5 rows.
    Region,
    /// 10,000 rows a scale factor.
    Supplier,
}

impl Table {
    /// All eight, small ones first.
    pub const ALL: [Table; 8] = [
        Table::Region,
        Table::Nation,
        Table::Supplier,
        Table::Customer,
        Table::Part,
        Table::PartSupp,
        Table::Orders,
        Table::LineItem,
    ];

    /// The table's name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Table::Customer => "customer",
            Table::LineItem => "lineitem",
            Table::Nation => "nation",
            Table::Orders => "orders",
            Table::Part => "part",
            Table::PartSupp => "partsupp",
            Table::Region => "region",
            Table::Supplier => "supplier",
        }
    }

    /// The table of this name.
    pub fn parse(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|table| table.name()).collect();
            Error::new(ErrorCode::InvalidArgument, format!("TPC-H has no table `{name}`"))
                .with_hint(format!("its tables are {}", names.join(", ")))
        })
    }

    /// The rows as Arrow batches of up to 8,000 rows, in key order. CPU work: drive it off the async threads.
    pub fn batches(self, scale: f64) -> Box<dyn RecordBatchReader + Send> {
        match self {
            Table::Customer => Box::new(CustomerArrow::new(CustomerGenerator::new(scale, 1, 1))),
            Table::LineItem => Box::new(LineItemArrow::new(LineItemGenerator::new(scale, 1, 1))),
            Table::Nation => Box::new(NationArrow::new(NationGenerator::new(scale, 1, 1))),
            Table::Orders => Box::new(OrderArrow::new(OrderGenerator::new(scale, 1, 1))),
            Table::Part => Box::new(PartArrow::new(PartGenerator::new(scale, 1, 1))),
            Table::PartSupp => Box::new(PartSuppArrow::new(PartSuppGenerator::new(scale, 1, 1))),
            Table::Region => Box::new(RegionArrow::new(RegionGenerator::new(scale, 1, 1))),
            Table::Supplier => Box::new(SupplierArrow::new(SupplierGenerator::new(scale, 1, 1))),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The 22 queries with the validation parameters of the specification, in order.
pub const QUERIES: [&str; 22] = [
    include_str!("../queries/tpch/q01.sql"),
    include_str!("../queries/tpch/q02.sql"),
    include_str!("../queries/tpch/q03.sql"),
    include_str!("../queries/tpch/q04.sql"),
    include_str!("../queries/tpch/q05.sql"),
    include_str!("../queries/tpch/q06.sql"),
    include_str!("../queries/tpch/q07.sql"),
    include_str!("../queries/tpch/q08.sql"),
    include_str!("../queries/tpch/q09.sql"),
    include_str!("../queries/tpch/q10.sql"),
    include_str!("../queries/tpch/q11.sql"),
    include_str!("../queries/tpch/q12.sql"),
    include_str!("../queries/tpch/q13.sql"),
    include_str!("../queries/tpch/q14.sql"),
    include_str!("../queries/tpch/q15.sql"),
    include_str!("../queries/tpch/q16.sql"),
    include_str!("../queries/tpch/q17.sql"),
    include_str!("../queries/tpch/q18.sql"),
    include_str!("../queries/tpch/q19.sql"),
    include_str!("../queries/tpch/q20.sql"),
    include_str!("../queries/tpch/q21.sql"),
    include_str!("../queries/tpch/q22.sql"),
];
