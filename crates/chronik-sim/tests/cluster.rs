//! Hundreds of histories of whole clusters, and the proof that each checker would find what it is there for.
//! `scripts/test simulation` lives through thousands.

use std::collections::BTreeSet;

use chronik_sim::cluster::{Counts, Fault, MessageCounts, Options, Rule, Sabotage, run};

/// How many histories are lived through.
const SEEDS: u64 = 120;
/// They are lived through by so many tests at once.
const SHARES: u64 = 2;
/// Histories within which a sabotage must be found.
const SABOTAGED_SEEDS: u64 = 400;

fn check_share(share: u64) {
    for seed in (0..SEEDS).filter(|seed| seed % SHARES == share) {
        let outcome = run(seed, Options::default());
        if let Some(finding) = outcome.finding {
            panic!(
                "seed {seed}: {finding}\nwhat led there: cargo run --release -p chronik-sim -- cluster --seeds {seed} --trace"
            );
        }
        assert!(outcome.counts.acknowledged > 0, "seed {seed} has hardly a history: {:?}", outcome.counts);
    }
}

#[test]
fn every_checker_holds_in_the_first_share_of_histories() {
    check_share(0);
}

#[test]
fn every_checker_holds_in_the_second_share_of_histories() {
    check_share(1);
}

#[test]
fn every_kind_of_fault_strikes() {
    for fault in Fault::ALL {
        let options = Options { faults: vec![fault], ..Options::default() };
        let strikes = |seed| run(seed, options.clone()).counts.faults.of(fault) > 0;
        assert!((0..40).any(strikes), "{fault:?} has struck nothing");
    }
}

#[test]
fn messages_are_lost_doubled_overtaken_and_late_and_topics_are_made_anew() {
    let mut seen = Counts::default();
    for seed in 0..40 {
        seen += run(seed, Options::default()).counts;
    }
    let MessageCounts { lost, doubled, late, late_requests } = seen.messages;
    for count in [lost, doubled, late, late_requests, seen.topics_deleted] {
        assert!(count > 0, "{seen:?}");
    }
}

#[test]
fn c12_a_seed_always_tells_the_same_history_and_another_seed_another() {
    let mut hashes = BTreeSet::new();
    for seed in 0..12 {
        let told = run(seed, Options { is_traced: true, ..Options::default() });
        let again = run(seed, Options::default());
        assert_eq!((told.hash, told.counts), (again.hash, again.counts), "seed {seed}");
        assert!(told.lines.len() > 50, "seed {seed} tells {} lines", told.lines.len());
        hashes.insert(told.hash);
    }
    assert_eq!(hashes.len(), 12);
    let depending = Options { sabotage: Some(Sabotage::DependOnThePast), ..Options::default() };
    let differs = |seed| run(seed, depending.clone()).hash != run(seed, depending.clone()).hash;
    assert!((0..12).any(differs), "it would be noticed");
}

/// Whether a breach of this rule alone, told in these words, is found where something is broken on purpose.
fn bites(sabotage: Sabotage, faults: &[Fault], rule: Rule, words: &str) {
    let options =
        Options { sabotage: Some(sabotage), faults: faults.to_vec(), only: Some(rule), ..Options::default() };
    let mut findings =
        (0..SABOTAGED_SEEDS).filter_map(|seed| Some((seed, run(seed, options.clone()).finding?)));
    let Some((seed, finding)) = findings.find(|(_, finding)| finding.text.contains(words)) else {
        panic!("{sabotage:?} goes unnoticed by {rule:?}");
    };
    assert_eq!(finding.rule, rule);
    let control = run(seed, Options { sabotage: None, ..options }).finding;
    assert_eq!(control, None, "seed {seed} without {sabotage:?}");
}

/// One test for each way to break a rule on purpose: what is broken, the faults that it takes where few seeds have them,
/// the only rule whose checker is looked at, and what it says where it looks at several things.
macro_rules! sabotages {
    ($($name:ident: $sabotage:ident $(under $($fault:ident)|+)? breaks $rule:ident $($words:literal)?;)+) => {
        $(
            #[test]
            fn $name() {
                bites(Sabotage::$sabotage, &[$($(Fault::$fault),+)?], Rule::$rule, concat!($($words)?));
            }
        )+

        #[test]
        fn every_rule_is_broken_and_every_sabotage_breaks_one() {
            // What depends on the past breaks no rule of brokers: two histories of a seed differ.
            let sabotages = [$(Sabotage::$sabotage,)+ Sabotage::DependOnThePast];
            assert_eq!(Sabotage::ALL.into_iter().find(|sabotage| !sabotages.contains(sabotage)), None);
            let rules = [$(Rule::$rule,)+ Rule::Defect];
            assert_eq!(Rule::ALL.into_iter().find(|rule| !rules.contains(rule)), None);
        }
    };
}

sabotages! {
    lost_records_bite: LyingDisk under PowerLoss breaks Acknowledged "was acknowledged, and None is there";
    forgotten_unclean_ends_bite: ForgetUncleanEnds under PowerLoss | Pause | Shutdown breaks Acknowledged "is there";
    acknowledged_refusals_bite: AcknowledgeRefused breaks Acknowledged "is nowhere";
    refusals_told_as_known_bite: CallRefusedKnown breaks Acknowledged "is nowhere";
    deletions_bite: DeleteUnasked breaks Acknowledged "nobody has deleted that much";
    deletions_elsewhere_bite: DeleteElsewhere breaks Acknowledged "nobody has deleted that much";
    deletions_of_topics_bite: DeleteTopicsUnasked breaks Acknowledged "were asked for, and";
    two_values_bite: ForgetUncleanEnds under PowerLoss | Pause | Shutdown breaks OneValue "was Value";
    other_values_for_late_readers_bite: GiveOthersLate breaks OneValue "is read there";
    records_of_other_topics_bite: WriteToAnotherTopic breaks OneValue "which was written to another topic";
    doubled_records_bite: ForgetProducers breaks Order "comes after its record";
    records_sent_twice_bite: SendTwice breaks Order "and again at";
    missing_sequences_bite: AcknowledgeRefused breaks Order "is refused with";
    shared_producer_ids_bite: GiveIdsAgain breaks Order "was given to two producers";
    skipped_records_bite: SkipRecords breaks Skips "was to come";
    skipped_records_bite_where_bits_flip: SkipRecords under FlipRead breaks Skips "was to come";
    unread_deletions_bite: DeleteUnasked breaks Skips "nobody has deleted that much";
    records_gone_after_they_were_read_bite: LyingDisk under PowerLoss breaks Skips "what was read is gone";
    old_watermarks_bite: TellOldWatermarks breaks Watermarks "the high watermark went back";
    uncommitted_reads_bite: TellOldWatermarks breaks Watermarks "was read";
    old_beginnings_bite: TellOldBeginnings breaks Watermarks "the log's beginning went back";
    acknowledgements_ahead_bite: AcknowledgeAhead breaks InSync;
    acknowledgements_ahead_after_a_loss_bite: AcknowledgeAheadAgain under PowerLoss breaks InSync;
    another_leader_bites: SeeAnotherLeader breaks OneLeader;
    another_isr_bites: SeeAnotherIsr breaks Images "and was";
    a_foreign_isr_bites: SeeForeignIsr breaks Images "who is no replica";
    a_leader_out_of_the_isr_bites: SeeLeaderOutOfIsr breaks Images "the leader is not in sync";
    shared_topic_ids_bite: GiveTopicIdsAgain breaks Images "was made with the id";
    changed_entries_bite: ChangeEntries breaks Images "have applied the same and differ";
    other_bytes_bite: StoreOtherBytes breaks SameBytes;
    lost_beginnings_bite: LoseBeginnings breaks SameBytes "nobody has deleted that much";
    damaged_disks_bite: DamageDisks breaks Logs "the batch checksum is";
    damaged_reads_bite: DamageReads breaks Logs "the batch checksum is";
    damaged_reads_bite_where_bits_flip: DamageReads under FlipRead breaks Logs "the batch checksum is";
    moved_batches_bite: MoveBatches breaks Logs "follows offset";
    old_epochs_bite: AgeBatches breaks Logs "follows offset";
    torn_logs_bite: TearLogs breaks Logs "ends within a batch";
    lost_first_segments_bite: LoseFirstSegments breaks Logs "follows offset None";
    ignored_failed_syncs_bite: IgnoreFailedSyncs breaks FailedSync;
    forgotten_commits_bite: ForgetCommits breaks Commits;
    partitions_of_two_owners_bite: AssignTwice breaks Groups "belongs to";
    old_generations_bite: TellOldGenerations breaks Groups "is told what it owns";
    commits_of_old_generations_bite: TellOldGenerations breaks Groups "commits";
    forgotten_commits_of_members_bite: ForgetGroupCommits breaks Groups "is told";
    forgotten_last_commits_of_members_bite: ForgetLastGroupCommits breaks Groups "is told";
    nodes_that_never_start_bite: StartApart breaks Convergence "does not serve";
    nodes_that_never_meet_bite: NeverHeal breaks Convergence "in sync at";
    producers_without_an_answer_bite: AcknowledgeRefused breaks Convergence "waits for answers";
    partitions_without_an_owner_bite: AssignNever breaks Convergence "have an owner";
    leaders_that_do_not_come_back_bite: StopControllers under Pause | CutNode breaks Convergence "is led by";
    logs_that_wait_for_room_bite: StopMaintenance under DiskFull | CrashAll breaks Convergence "does not serve";
    ends_that_nobody_hears_of_bite: TellFollowersOldWatermarks breaks Convergence "high watermarks and ends";
    unread_records_bite: HideLastRecords breaks Convergence "is read up to";
    panics_bite: Panic breaks Panic "panic: sabotage";
    logs_that_go_offline_bite: FailLogSyncs breaks Panic "its log directory is offline";
    metadata_logs_that_end_bite: FailMetadataSyncs breaks Panic "the metadata log ends";
    nodes_that_do_not_start_bite: RefuseLocks breaks Panic "does not start";
    duties_without_a_pause_bite: NeverWait breaks Panic "goes round in circles";
    refused_producers_bite: TellErrors breaks Errors "producer";
    refused_fetches_bite: TellErrors breaks Errors "a fetch of";
    refused_members_bite: TellErrors breaks Errors "of group";
    unasked_answers_bite: AnswerUnasked breaks Errors "was not asked for";
}
