//! FLUX as a [`Denoiser`].

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::{FluxTransformer, TransformerInput};
use crate::denoiser::{ActivationMemory, Denoiser, Input, Tape};
use crate::flux::{POOLED_PROMPT_EMBEDS, PROMPT_EMBEDS};
use crate::lora::{AdaptableLayers, LoraAdapter, LoraGradients};
use crate::{Family, ModelError};

impl FluxTransformer {
    fn input(&self, input: &Input<'_>) -> Result<TransformerInput, ModelError> {
        let Input {
            latents,
            conditioning,
            sigma,
            guidance,
            grid,
        } = input;
        Ok(TransformerInput {
            latents: (*latents).clone(),
            prompt_embeds: conditioning.get(PROMPT_EMBEDS)?.clone(),
            pooled_prompt_embeds: conditioning.get(POOLED_PROMPT_EMBEDS)?.clone(),
            sigma: Tensor::new(*sigma, &self.device)?,
            guidance: *guidance,
            height_tokens: grid.height,
            width_tokens: grid.width,
        })
    }
}

impl Denoiser for FluxTransformer {
    fn family(&self) -> Family {
        Family::Flux
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn layers(&self) -> &AdaptableLayers {
        &self.layers
    }

    fn latent_channels(&self) -> usize {
        self.config.in_channels
    }

    fn takes_guidance(&self) -> bool {
        self.config.guidance_embeds
    }

    fn check_conditioning(&self, shapes: &BTreeMap<String, Vec<usize>>) -> Result<(), ModelError> {
        let shape = |name: &str| {
            shapes
                .get(name)
                .ok_or_else(|| ModelError::ConditioningMissing { name: name.to_owned() })
        };
        let misfit = |input, expected, found: &[usize]| {
            Err(ModelError::Shape {
                input,
                expected,
                found: found.to_vec(),
            })
        };
        let (joint, pooled) = (self.config.joint_attention_dim, self.config.pooled_projection_dim);
        let found = shape(PROMPT_EMBEDS)?;
        if !matches!(**found, [tokens, width] if tokens > 0 && width == joint) {
            return misfit(PROMPT_EMBEDS, format!("(at least 1 token, {joint})"), found);
        }
        let found = shape(POOLED_PROMPT_EMBEDS)?;
        if **found != [pooled] {
            return misfit(POOLED_PROMPT_EMBEDS, format!("({pooled},)"), found);
        }
        let known = [PROMPT_EMBEDS, POOLED_PROMPT_EMBEDS];
        match shapes.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(ModelError::ConditioningUnread { name: name.clone() }),
            None => Ok(()),
        }
    }

    fn velocity(&self, adapter: Option<&LoraAdapter>, input: &Input<'_>) -> Result<Tensor, ModelError> {
        self.velocity(adapter, &self.input(input)?)
    }

    fn velocity_for_vjp(
        &self,
        adapter: &LoraAdapter,
        input: &Input<'_>,
        memory: ActivationMemory,
    ) -> Result<(Tensor, Tape), ModelError> {
        let (velocity, tape) = self.velocity_for_vjp(adapter, &self.input(input)?, memory)?;
        let shape = tape.shape;
        let kept = Box::new(tape);
        Ok((velocity, Tape { shape, kept }))
    }

    fn vjp(
        &self,
        adapter: &LoraAdapter,
        tape: Tape,
        grad: &Tensor,
        into: &mut LoraGradients,
    ) -> Result<(), ModelError> {
        match tape.kept.downcast::<super::Tape>() {
            Ok(tape) => self.vjp(adapter, *tape, grad, into),
            Err(_) => Err(ModelError::Value {
                input: "tape",
                problem: "comes from another transformer".to_owned(),
            }),
        }
    }
}
