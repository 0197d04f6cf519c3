"""The cache of keys: bounded, and nothing dropped comes back."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.caller import Caller
from gateway.identity.cache import KeyCache, Known, Secret


def entry(organisation: str, key_id: str, epoch: int | None = None) -> Known:
    caller = Caller(organisation=organisation, project="proj_1", principal="prin_1", key=key_id, plan="free")
    return Known(caller, (Secret(bytes(32)),), None, epoch, 0.0)


def remembered(cache: KeyCache, organisation: str, key_id: str, epoch: int | None = None) -> Known:
    return cache.put(key_id, entry(organisation, key_id, epoch), cache.begin())


def test_a_drop_forgets_the_organisations_keys_of_another_epoch_and_no_others() -> None:
    cache = KeyCache(10)
    remembered(cache, "org_a", "key_old", epoch=1)
    remembered(cache, "org_b", "key_other", epoch=1)
    cache.drop("org_a", 2)
    remembered(cache, "org_a", "key_new", epoch=2)
    cache.drop("org_a", 2)
    assert cache.get("key_old") is None
    assert cache.get("key_new") is not None
    assert cache.get("key_other") is not None


def test_a_load_that_began_before_a_drop_is_not_remembered() -> None:
    cache = KeyCache(10)
    before = cache.begin()
    cache.drop("org_a", 2)
    assert cache.put("key_1", entry("org_a", "key_1"), before).epoch is None
    assert cache.get("key_1") is None


def test_a_load_that_was_overtaken_does_not_overwrite_the_newer_entry() -> None:
    cache = KeyCache(10)
    slow, fast = cache.begin(), cache.begin()
    newer = cache.put("key_1", entry("org_a", "key_1"), fast)
    cache.put("key_1", entry("org_a", "key_1"), slow)
    assert cache.get("key_1") is newer


def test_a_load_takes_the_epoch_that_was_known_before_it_began_and_no_later_one() -> None:
    cache = KeyCache(10)
    cache.drop("org_a", 5)
    assert remembered(cache, "org_a", "key_1").epoch == 5
    early = cache.begin()
    cache.drop("org_a", 6)
    assert cache.put("key_2", entry("org_a", "key_2"), early).epoch is None


def test_an_entry_whose_organisation_is_no_longer_indexed_is_gone_too() -> None:
    cache = KeyCache(2)
    remembered(cache, "org_a", "key_a")
    cache.drop("org_b", 1)
    cache.drop("org_c", 1)  # the index is full: org_a leaves it, and a drop could not find key_a any more
    assert cache.get("key_a") is None


organisations = st.sampled_from(["org_a", "org_b", "org_c"])
begins = st.tuples(st.just("begin"), organisations, st.integers(0, 4))
finishes = st.tuples(st.just("finish"), st.integers(0, 20), st.none() | st.integers(1, 4))
drops = st.tuples(st.just("drop"), organisations, st.integers(1, 4))
orders = st.lists(st.one_of(begins, finishes, drops), max_size=60)


class Driver:
    """Plays an order of events on a cache, and keeps the last epoch learnt of each organisation, by its number."""

    def __init__(self, size: int) -> None:
        self.cache = KeyCache(size)
        self.under_way: list[tuple[int, str, str]] = []
        self.learnt: dict[str, tuple[int, int]] = {}
        self.keys: dict[str, str] = {}

    def play(self, action: str, first: object, second: int | None) -> None:
        if action == "begin":
            key_id = f"key_{first}_{second}"
            self.keys[key_id] = str(first)
            self.under_way.append((self.cache.begin(), str(first), key_id))
        elif action == "drop":
            self.cache.drop(str(first), int(second or 0))
            self.learn(str(first), int(second or 0), self.cache.begin())
        elif self.under_way:
            number, organisation, key_id = self.under_way.pop(int(str(first)) % len(self.under_way))
            self.cache.put(key_id, entry(organisation, key_id, second), number)
            if second is not None:
                self.learn(organisation, second, number)

    def learn(self, organisation: str, epoch: int, number: int) -> None:
        if number > self.learnt.get(organisation, (0, 0))[0]:
            self.learnt[organisation] = (number, epoch)


@settings(max_examples=300, deadline=None)
@given(orders)
def test_in_any_order_of_loads_and_drops_only_entries_of_the_last_epoch_are_there(
    order: list[tuple[str, object, int | None]],
) -> None:
    driver = Driver(1000)
    for step in order:
        driver.play(*step)
        for key_id, organisation in driver.keys.items():
            held = driver.cache.get(key_id)
            if held is not None:
                _, epoch = driver.learnt.get(organisation, (0, None))
                assert held.epoch == epoch


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), orders)
def test_in_any_order_the_cache_and_its_index_are_bounded(
    size: int, order: list[tuple[str, object, int | None]]
) -> None:
    driver = Driver(size)
    for step in order:
        driver.play(*step)
        assert len(driver.cache) <= size
        assert driver.cache.organisations() <= size
