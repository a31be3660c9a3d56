//! Groups of more than two candidates.

use super::*;
use crate::work::AbstainReason;

#[test]
fn groups_are_judged_each_against_each_and_rewarded_by_rank() {
    let mut fleet = with(|spec| {
        spec.sampling.candidates = 3;
        spec.judge.batch = 2;
        spec.trainer.shard = 2;
    });
    let (unit, fence) = lease(&mut fleet, |unit| matches!(unit, Unit::Judge { chunk: 0, .. }));
    let Some(Assignment::Judge { pairs }) = fleet.run.assignment(&unit) else {
        panic!()
    };
    let images: Vec<_> = fleet.run.in_flight().next().unwrap().groups[..2]
        .iter()
        .map(|group| {
            group
                .candidates
                .iter()
                .map(|candidate| candidate.image)
                .collect::<Vec<_>>()
        })
        .collect();
    let shown: Vec<_> = pairs
        .iter()
        .map(|pair| (pair.prompt_index.0, pair.first, pair.second))
        .collect();
    let expected = |index: u32| {
        let images = &images[index as usize];
        [(0, 1), (0, 2), (1, 2)].map(|(first, second)| (index, images[first], images[second]))
    };
    assert_eq!(shown, [expected(0), expected(1)].concat());

    // Candidate 1 beats all, 0 and 2 draw; of the second group one match cannot be judged.
    let preferred = |side| Verdict::Preferred { side };
    let verdicts = vec![
        record(0, preferred(Side::Second), &fleet.run),
        record(
            0,
            Verdict::Abstain {
                reason: AbstainReason::TooClose,
            },
            &fleet.run,
        ),
        record(0, preferred(Side::First), &fleet.run),
        record(1, preferred(Side::First), &fleet.run),
        record(1, preferred(Side::First), &fleet.run),
        record(1, Verdict::Failed { reason: "blind".into() }, &fleet.run),
    ];
    let complete = |verdicts| Event::Completed {
        unit,
        worker: worker(),
        fence,
        outcome: judged(verdicts),
    };
    assert!(
        matches!(
            fleet.apply(complete(verdicts[..5].to_vec())),
            Err(Refusal::InvalidOutcome { .. })
        ),
        "a verdict is missing"
    );
    fleet.apply(complete(verdicts)).unwrap();
    let Some(Assignment::Gradient { groups, .. }) = fleet.run.assignment(&Unit::Gradient {
        step: Step(1),
        shard: 0,
    }) else {
        panic!()
    };
    assert_eq!(groups.len(), 1);
    let rewards: Vec<_> = groups[0].candidates.iter().map(|candidate| candidate.reward).collect();
    assert_eq!(rewards, [-0.1, 1.0, -0.1]);

    fleet.work_until(|_| false);
    assert_eq!(fleet.run.phase(), Phase::Finished);
    let step = &fleet.run.results().steps[0];
    assert!(step.record.failed >= 1 && step.groups.iter().all(|group| group.verdicts.len() == 3));
    assert_eq!(
        step.record.decided as usize,
        step.groups.iter().filter(|group| group.is_decided()).count()
    );
}
