"""The gate: is the model good enough to be archived and served?"""

from kfp import dsl

from nlp_pipeline.components.ranges import check_parameters


def gate(metrics: dsl.Input[dsl.Metrics], min_accuracy: float) -> bool:
    """Says whether the accuracy is at or above a floor, and above that of always naming the most frequent class.

    Args:
        metrics: What evaluate_model told; its file holds `accuracy` and `majority_accuracy`.
        min_accuracy: The floor, from 0 to 1.

    Returns:
        Whether the model passes.
    """
    import json

    check_parameters(min_accuracy=min_accuracy)
    with open(metrics.path, encoding="utf-8") as file:
        result = json.load(file)
    accuracy, majority = result["accuracy"], result["majority_accuracy"]
    if accuracy < min_accuracy:
        print(f"not passed: accuracy {accuracy:.4f} is {min_accuracy - accuracy:.4f} below min_accuracy {min_accuracy}")
        return False
    if accuracy <= majority:
        print(
            f"not passed: accuracy {accuracy:.4f} is not above {majority:.4f}, that of naming the most frequent class"
        )
        return False
    print(f"passed: accuracy {accuracy:.4f}, min_accuracy {min_accuracy}, most frequent class {majority:.4f}")
    return True
