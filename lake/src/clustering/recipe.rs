//! [`KeySpec`] on its way to executors.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion::common::{DataFusionError, Result};
use datafusion_proto::protobuf;
use prost::Message;
use townlake_common::Error;
use townlake_proto::lake::{self as proto, Bounds, ClusterKeyRecipe};

use super::key::{Curve, KeyColumn, KeySpec, Output};

impl KeySpec {
    pub(crate) fn to_recipe(&self) -> Result<ClusterKeyRecipe> {
        // Names have no meaning here, but must differ.
        let types = self.partition.iter().chain(&self.order).enumerate();
        let types = types.map(|(n, column)| Field::new(n.to_string(), column.data_type.clone(), true));
        let types: protobuf::Schema = (&Schema::new(types.collect::<Vec<_>>())).try_into()?;
        let columns = |columns: &[KeyColumn]| columns.iter().map(column_to_recipe).collect();
        let bounds = |values: &[Vec<u8>]| Bounds { values: values.to_vec() };
        let (zorder, quantiles) = match &self.curve {
            Curve::Linear => (false, Vec::new()),
            Curve::Z { quantiles } => (true, quantiles.iter().map(|values| bounds(values)).collect()),
        };
        let (sample_every, bounds, tokens) = match &self.output {
            Output::Samples { every } => (Some(*every), None, Vec::new()),
            Output::Keys { bounds: values, tokens } => (None, Some(bounds(values)), tokens.clone()),
        };
        Ok(ClusterKeyRecipe {
            types: types.encode_to_vec(),
            partition: columns(&self.partition),
            order: columns(&self.order),
            zorder,
            quantiles,
            sample_every,
            bounds,
            tokens,
        })
    }

    pub(crate) fn from_recipe(recipe: ClusterKeyRecipe) -> Result<Self> {
        let broken = |error| external(Error::internal("the types of keys cannot be decoded").with_source(error));
        let types = protobuf::Schema::decode(recipe.types.as_slice()).map_err(broken)?;
        let types: Schema = (&types).try_into()?;
        let columns = recipe.partition.iter().chain(&recipe.order);
        if types.fields().len() != columns.clone().count() {
            return Err(external(Error::internal("keys have other types than columns")));
        }
        let columns = columns.zip(types.fields()).map(|(column, of)| column_of_recipe(column, of));
        let mut partition = columns.collect::<Result<Vec<_>>>()?;
        let order = partition.split_off(recipe.partition.len());
        let quantiles = recipe.quantiles.into_iter().map(|bounds| bounds.values).collect();
        let curve = if recipe.zorder { Curve::Z { quantiles } } else { Curve::Linear };
        let output = match recipe.sample_every {
            Some(every) => Output::Samples { every: every.max(1) },
            None => Output::Keys { bounds: recipe.bounds.unwrap_or_default().values, tokens: recipe.tokens },
        };
        Ok(Self { partition, order, curve, output })
    }
}

fn column_to_recipe(column: &KeyColumn) -> proto::KeyColumn {
    proto::KeyColumn {
        index: u32::try_from(column.index).unwrap_or(u32::MAX),
        transform: column.transform.to_string(),
        descending: column.descending,
        nulls_first: column.nulls_first,
    }
}

fn column_of_recipe(column: &proto::KeyColumn, of: &Arc<Field>) -> Result<KeyColumn> {
    let unknown = |error| external(Error::internal("a key has a transform that is not known").with_source(error));
    Ok(KeyColumn {
        index: column.index as usize,
        data_type: of.data_type().clone(),
        transform: column.transform.parse().map_err(unknown)?,
        descending: column.descending,
        nulls_first: column.nulls_first,
    })
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
