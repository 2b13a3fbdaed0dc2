use super::*;
use crate::buffer::{fifo, herding};
use crate::mix::Mix;

/// A buffer of each kind of policy.
fn late() -> BTreeMap<String, Spec> {
    let capacity = Capacity::Records(20);
    let policies = [
        ("uniform", PolicyConfig::Reservoir(reservoir::Settings { capacity })),
        ("newest", PolicyConfig::Fifo(fifo::Settings { capacity })),
        ("herd", PolicyConfig::Herding(herding::Settings { capacity, ..herding::Settings::default() })),
    ];
    policies.iter().map(|(name, policy)| ((*name).to_owned(), Spec::new(name, policy))).collect()
}

/// The changes of a store that is read in one go, and of one that was followed for long without these buffers.
#[tokio::test]
async fn buffer_that_is_added_later_is_filled_as_if_it_had_been_there_from_the_beginning() {
    let first = plan(0.3);
    let both = Plan { buffers: first.buffers.clone().into_iter().chain(late()).collect(), ..plan(0.3) };
    let mut stores = Vec::new();
    for plans in [[&both, &both, &both], [&first, &first, &both]] {
        let mut world = World::new().await;
        for plan in plans {
            world.write("a", 90).await;
            world.library(plan).await;
        }
        let mut library = world.library(&both).await;
        for name in late().keys() {
            assert!(library.verify(name).await.unwrap().exact, "{name}");
        }
        stores.push(changes(&world).await);
    }
    assert_eq!(stores[0], stores[1]);
    for name in late().keys() {
        let ours = stores[0].iter().filter(|change| change.starts_with(&format!("{name} "))).count();
        assert!(ours > 10, "{name}: {ours} changes");
    }
}

/// A range for each block, where each record came and went before: of 126,812 records 252,600 changes.
#[tokio::test]
async fn fifo_writes_at_most_one_row_for_each_block() {
    let mut world = World::new().await;
    world.write("a", 2_000).await;
    let newest = late().remove_entry("newest").unwrap();
    let plan = Plan { buffers: [newest].into(), mix: Mix::default(), block: 128, ..plan(0.0) };
    let mut library = world.library(&plan).await;
    assert_eq!(library.newest_members("newest").unwrap().list().len(), 20);
    assert_eq!(changes(&world).await.len(), 2_000 / 128);
}
