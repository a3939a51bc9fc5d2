"""nbgrader, for those who have it (the extra `instructor`): run its commands in this folder. Nothing else needs it."""

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "apo_edu"
c.ClearSolutions.code_stub = {"python": "pass  # your code here"}
c.ClearSolutions.text_stub = "YOUR ANSWER HERE"
c.ExecutePreprocessor.timeout = 120
